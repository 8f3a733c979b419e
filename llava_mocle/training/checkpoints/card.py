"""README.md of a run's folder and of its checkpoints, from the recipe and the run's state."""

from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn
from transformers import TrainerState

from llava_mocle import __version__
from llava_mocle.adapter.card import PAPER, code, public_name, table, write_card
from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.training.setup.adapter import count_parameters

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

_KINDS = {
    "mocle": "MoCLE: experts chosen by the cluster of the instruction, and a universal expert",
    "cluster": "experts chosen by the cluster of the instruction, without a universal expert",
    "dataset": "experts chosen by dataset",
    "token": "experts chosen by every token at every adapted linear",
    "sentence": "experts chosen by the mean word embedding of the instruction",
    "lora": "one LoRA",
}


def write_run_card(
    folder: Path,
    recipe: Recipe,
    base: str | Path,
    family: str,
    cluster_model: "ClusterModel | None",
    model: nn.Module,
    state: TrainerState,
    step: int,
) -> None:
    """Write README.md beside what was trained.

    Args:
        base: the base folder.
        family: what kind of model the base is: its name for people.
        model: what is trained; under ZeRO-3 its parameters may be partitioned.
        state: how far the run is, and its losses.
        step: of the weights.
    """
    stage_1 = recipe.stage.stage == "pretrain"
    adapter = recipe.adapter
    name = public_name(base)
    facts = [
        ("base", name),
        ("trained", _trained(model)),
        ("stage", "1: the projector alone" if stage_1 else f"2: {_KINDS[adapter.adapter]}"),
        *([] if stage_1 else _adapter_facts(recipe, cluster_model)),
        ("data", ", ".join(f"{spec.name} ({spec.how_often()})" for spec in recipe.data.dataset_specs())),
        ("prompt template", recipe.data.version),
        ("steps", f"{state.global_step} of {state.max_steps}"),
        ("weights", None if step == state.global_step else f"of step {step}, the best checkpoint"),
        *_losses(state, step),
        ("made with", f"llava_mocle {__version__}; all settings: `recipe.yaml`"),
    ]
    write_card(
        folder,
        f"{name}: {'stage 1' if stage_1 else adapter.adapter}",
        name,
        [] if stage_1 else [adapter.adapter, family.lower()],
        [
            f"A vision-language model of the {family} kind, trained with llava_mocle ({PAPER}). This folder holds what "
            "was trained, not the frozen base.",
            table(facts),
            "## Use",
            *_use(recipe),
        ],
    )


def _trained(model: nn.Module) -> str:
    counts = count_parameters(model)
    parts = ", ".join(f"{kind} {counts[kind]:,}" for kind in ("experts", "router", "projector") if counts[kind])
    return f"{counts['trainable']:,} of {counts['all']:,} parameters ({parts})"


def _adapter_facts(recipe: Recipe, cluster_model: "ClusterModel | None") -> list[tuple[str, str | None]]:
    adapter = recipe.adapter
    routed = adapter.adapter != "lora"
    universal = " and a universal one" if adapter.adapter == "mocle" else ""
    clusters = None
    if cluster_model is not None and adapter.adapter in ("mocle", "cluster"):
        encoder = public_name(cluster_model.config.encoder)
        clusters = f"K = {cluster_model.num_clusters}, of instructions embedded by {encoder}"
    return [
        ("clusters", clusters),
        ("experts", f"E = {adapter.num_experts}{universal}, top {adapter.top_k}" if routed else None),
        ("rank, alpha", f"{adapter.lora_r}, {adapter.lora_alpha:g}"),
        ("adapted", adapter.lora_target_modules),
    ]


def _losses(state: TrainerState, step: int) -> list[tuple[str, str]]:
    """The last held-out losses up to the step of the weights."""
    before = (entry for entry in reversed(state.log_history) if "eval_loss" in entry and entry["step"] <= step)
    last = next(before, None)
    if last is None:
        return []
    parts = {
        name.removeprefix("eval_loss_"): value
        for name, value in last.items()
        if name.startswith("eval_loss_") and not name.startswith("eval_loss_cluster_")
    }
    details = ", ".join(f"{name} {value:.4g}" for name, value in parts.items())
    return [("held-out loss", f"{last['eval_loss']:.4g} at step {last['step']}{f' ({details})' if details else ''}")]


def _use(recipe: Recipe) -> list[str]:
    ask = code(
        "from llava_mocle.inference import Predictor",
        "",
        'predictor = Predictor.from_pretrained(".")  # base="FOLDER" if the base is not where it was',
        'print(predictor.predict("image.jpg", "What is this?"' + _dataset(recipe) + ").text)",
    )
    blocks = ["In this folder, with `pip install llava_mocle`:", ask]
    if recipe.stage.stage == "pretrain":
        return [*blocks, "For stage 2, name this folder as `pretrain_mm_mlp_adapter`."]
    if recipe.adapter.adapter in LEARNED_ROUTERS:
        return blocks
    number = None if recipe.adapter.adapter == "lora" else 0
    what = {"lora": "The adapter", "dataset": "One dataset's part"}.get(recipe.adapter.adapter, "One cluster")
    return [
        *blocks,
        f"{what} as a plain LoRA for PEFT (`llava-mocle collapse` does the same, and `llava-mocle export` writes what "
        "inference engines read):",
        code(
            "from llava_mocle import collapse",
            "from llava_mocle.model.load import load_model",
            "",
            f'collapse(load_model(".").model, {number}, "plain_lora")',
        ),
    ]


def _dataset(recipe: Recipe) -> str:
    if recipe.adapter.adapter != "dataset" or recipe.stage.stage == "pretrain":
        return ""
    return f", dataset={recipe.data.dataset_specs()[0].name!r}"
