"""This project's own recipe keys: the fields of plain dataclasses, each declared once, with its policy.

Free of torch and transformers, so that `llava-mocle train --help` answers at once. Where LLaVA has a flag for a key,
the key has that flag's name.
"""

import dataclasses
import json
import typing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llava_mocle.data.image_limits import ASPECT_RATIOS
from llava_mocle.data.template_names import ALIASES, TEMPLATE_NAMES
from llava_mocle.errors import ConfigError
from llava_mocle.recipe.policy import ABOVE_0, FROM_0, FROM_1, SEED, Range, by_content, free, same

if TYPE_CHECKING:
    from llava_mocle.data.mixture import DatasetSpec

# The keys of an entry of `datasets` that are paths.
PATH_FIELDS = ("data_path", "image_folder", "eval_data_path")
# Keys that a recipe may leave to its base, its stage 1 or the checkpoint that it goes on from.
LEFT_TO_BASE = (
    "version", "image_aspect_ratio", "model_max_length", "mm_vision_select_layer", "mm_vision_select_feature",
    "lora_target_modules",
)  # fmt: skip
# `model_max_length` where neither the recipe nor the base says another one.
USUAL_LENGTH = 2048
# The adapters whose gates follow from a cluster; those from any id; those whose gates see what the model sees; and all
# that have gates.
_BY_CLUSTER = ("mocle", "cluster")
_BY_ID = (*_BY_CLUSTER, "dataset")
_LEARNED = ("token", "sentence")
_ROUTED = (*_BY_ID, *_LEARNED)
ADAPTERS = (*_ROUTED, "lora")


@dataclass
class ModelArguments:
    """Where the model comes from."""

    model_name_or_path: str | None = same(
        None, "A LLaVA folder, a stage-1 folder, or a language model when `vision_tower` is given.", path=True
    )
    vision_tower: str | None = same(
        None,
        "A vision tower (folder or name) to join to the language model, or that of an original LLaVA folder.",
        path=True,
    )
    pretrain_mm_mlp_adapter: str | None = same(
        None, "A trained projector: mm_projector.safetensors, LLaVA's mm_projector.bin, or a stage-1 folder.", path=True
    )
    warm_start: str | None = same(
        None,
        "The folder of a trained adapter (a plain LoRA, or a checkpoint of ours of the same shape) that a new run "
        "starts from; a run that goes on does not read it.",
        path=True,
    )
    mm_vision_select_layer: int | None = same(
        None, "Which layer of `vision_tower` feeds the projector; none: -2, LLaVA's (-1 for a grid tower)."
    )
    mm_vision_select_feature: str | None = same(
        None, "`patch` drops the tower's class token; none: what the tower needs.", choices=("patch", "full")
    )
    dtype: str = same(
        "auto",
        "Of the frozen weights; auto: bfloat16 with `bf16` on a GPU, else float32. 16 bit needs `bf16` or `fp16`.",
        choices=("auto", "float32", "bfloat16", "float16"),
    )
    bits: int = same(
        16,
        "4 or 8: the language model's linears are stored in so many bits (QLoRA, LLM.int8()); 16: as `dtype` says.",
        choices=(4, 8, 16),
    )
    double_quant: bool = same(True, "With `bits: 4`: the scales of the weights are quantized as well.")
    quant_type: str = same("nf4", "With `bits: 4`: which 4-bit numbers.", choices=("nf4", "fp4"))
    attn_implementation: str = free(
        "auto",
        "The attention's implementation; auto: flash_attention_2 where it can run, else sdpa.",
        choices=("auto", "flash_attention_2", "sdpa", "eager"),
    )
    allow_other_base: bool = free(
        False,
        "Go on, with a warning, on another base than a checkpoint, a stage-1 projector or a warm start was trained on.",
    )
    model_config: str | None = free(
        None,
        "A LLaVA config.json that `--dry-run` builds on the meta device when the weights are not at hand.",
        path=True,
    )


@dataclass
class DataArguments:
    """Which rows, which images, which prompt."""

    datasets: str | None = by_content(
        None,
        "List of {name, data_path, image_folder, repeat or weight, eval_data_path} in the recipe; as JSON on the "
        "command line.",
    )
    data_path: str | None = by_content(
        None, "Shorthand for one dataset: its rows (LLaVA JSON or JSONL).", excludes="datasets", path=True
    )
    image_folder: str | None = by_content(
        None, "Shorthand for one dataset: the folder its image paths start from.", belongs_to="data_path", path=True
    )
    eval_data_path: str | None = by_content(
        None, "Shorthand for one dataset: held-out rows for the validation loss.", belongs_to="data_path", path=True
    )
    version: str | None = same(
        None,
        "The prompt template; none: the one that the base was made for.",
        choices=(*TEMPLATE_NAMES, *ALIASES),
    )
    image_aspect_ratio: str | None = same(
        None,
        "pad: pads images to a square with the processor's mean colour; square: leaves them to the processor; none: as "
        "the base (or stage 1) was trained, else pad.",
        choices=ASPECT_RATIOS,
    )
    model_max_length: int | None = same(
        None,
        "Longest sample in tokens; a row whose image would be cut is dropped. None: 2048 (8192 for a base whose images "
        "take as many tokens as their size asks for), or what the base takes if that is less.",
        numbers=FROM_1,
    )
    corrupt_images: str = free(
        "error", "What to do with an unreadable image met while training.", choices=("error", "skip")
    )

    def dataset_specs(self) -> "list[DatasetSpec]":
        """The datasets of the recipe, whichever way they were given.

        Raises:
            ConfigError: none given, both ways used, an entry lacks a key or has an unknown one, or only some
                have a weight.
        """
        from llava_mocle.data.mixture import DatasetSpec, check_weights

        entries = self.entries()
        known = DatasetSpec.__dataclass_fields__
        for position, entry in enumerate(entries):
            if not isinstance(entry, dict):
                raise ConfigError(f"datasets[{position}]: found {entry!r}, expected keys {', '.join(known)}")
            for key in entry:
                if key not in known:
                    raise ConfigError(f"datasets[{position}]: unknown key {key!r}; known are {', '.join(known)}")
            for key in ("name", "data_path"):
                if not entry.get(key):
                    raise ConfigError(f"datasets[{position}]: {key!r} is missing; every dataset needs one")
        names = [entry["name"] for entry in entries]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(f"datasets: the name {name!r} is used twice; every dataset needs its own")
        left_out = [{key: value for key, value in entry.items() if value is not None} for entry in entries]
        specs = [DatasetSpec(**entry) for entry in left_out]
        check_weights(specs)
        return specs

    def entries(self) -> list[Any]:
        """The datasets as they were given, of whatever kinds.

        Raises:
            ConfigError: none given, both ways used, or `datasets` is no list.
        """
        if self.datasets and self.data_path:
            raise ConfigError("both `datasets` and `data_path` are set; keep one of them")
        if self.datasets:
            for key in ("image_folder", "eval_data_path"):
                if value := getattr(self, key):
                    raise ConfigError(
                        f"{key} is {value!r} beside `datasets`, where it does nothing; put it into the entry of the "
                        "dataset that it belongs to"
                    )
        if self.data_path:
            entry = {"name": "train", "data_path": self.data_path, "image_folder": self.image_folder or ""}
            return [entry | ({"eval_data_path": self.eval_data_path} if self.eval_data_path else {})]
        if not self.datasets:
            raise ConfigError("no data: set `datasets` (a list) or `data_path` and `image_folder`")
        entries = self.datasets
        if isinstance(entries, str):
            try:
                entries = json.loads(entries)
            except (ValueError, RecursionError) as error:
                raise ConfigError(f"datasets: not JSON ({error}); on the command line it is a JSON list") from error
        if not isinstance(entries, list):
            raise ConfigError(f"datasets: found {type(entries).__name__}, expected a list of datasets")
        return entries


@dataclass
class ClusterArguments:
    """How instructions become clusters."""

    cluster_model: str | None = by_content(
        None, "The cluster model folder: written by `cluster`, read by `train`.", path=True
    )
    cluster_assignments: str | None = by_content(
        None, "The rows' assignment table; default: assignments.parquet in the cluster model folder.", path=True
    )
    num_clusters: int = by_content(
        4, "K: 4 for LLaVA-1.5, 64 for InstructBLIP in the paper.", clustering="num_clusters", numbers=FROM_1
    )
    cluster_encoder: str = by_content(
        "sentence-transformers/all-MiniLM-L6-v2",
        "The sentence encoder: any sentence-transformers model, a name or a folder.",
        clustering="encoder",
        path=True,
    )
    instruction_turns: str = by_content(
        "first",
        "Which human turns route a sample, by cluster or by sentence.",
        choices=("first", "all"),
        clustering="instruction_turns",
    )
    cluster_seed: int = by_content(0, "Seed of k-means++.", clustering="seed", numbers=SEED)
    cluster_n_init: int = by_content(
        10, "Restarts of k-means; the lowest inertia wins.", clustering="n_init", numbers=FROM_1
    )
    cluster_cache_dir: str | None = free(None, "Where embeddings are kept between runs.", path=True)


@dataclass
class AdapterArguments:
    """The adapter of stage 2. The defaults are the paper's for LLaVA-1.5 (Table 1)."""

    adapter: str = same(
        "mocle",
        "mocle; cluster (no universal expert); dataset (routes by dataset); token (every token for itself, as in "
        "LLaVA-MoLE); sentence (by the mean word embedding of the instruction, as in Octavius); lora (one plain LoRA).",
        choices=ADAPTERS,
    )
    lora_r: int = same(128, "Rank of every expert.", numbers=FROM_1)
    lora_alpha: int = same(256, "The scaling is lora_alpha / lora_r.", numbers=FROM_1)
    lora_dropout: float = same(0.0, "Dropout in front of the experts.", numbers=Range(0, 1, below=True))
    lora_target_modules: str | None = same(
        None,
        "Names of the language model's linears to adapt: a list, or separated by commas; none: up_proj,down_proj, and "
        "q_proj,v_proj in InstructBLIP.",
    )
    fused_adapter: bool = free(
        True,
        "Compute the experts, and gated MLPs that hold them, as one function each: faster, with less memory, and the "
        "same up to rounding. False: the plain path, for comparisons.",
    )
    num_experts: int = same(4, "E: task experts a site, besides the universal one.", numbers=FROM_1, adapters=_ROUTED)
    top_k: int = same(
        1,
        "Task experts a sample activates; 2 only without the universal expert.",
        numbers=Range(1, 2),
        adapters=_ROUTED,
    )
    gate_temperature: float = same(
        0.1, "tau: 0.1 for LLaVA-1.5, 0.05 for InstructBLIP in the paper.", numbers=ABOVE_0, adapters=_ROUTED
    )
    gate_noise_std: float | None = same(
        None,
        "Noise on the gates while training; none: num_experts ** -0.5, or 0.1 under gate_mode released. Short runs: 0.",
        numbers=FROM_0,
        adapters=_ROUTED,
    )
    gate_sharing: str = same(
        "site",
        "With adapter token or sentence: one gate a site, a block (such as an MLP), or for sentence one a model.",
        choices=("site", "block", "model"),
        adapters=_LEARNED,
    )
    gate_bias: bool = same(False, "With adapter token or sentence: gates have a bias.", adapters=_LEARNED)
    expert_weight: str = same(
        "probability",
        "With adapter token or sentence, what a chosen expert is multiplied by: its probability; one (top_k 1, with a "
        "balance loss); renormalized (top_k 2), its probability over the sum of the two.",
        choices=("probability", "one", "renormalized"),
        adapters=_LEARNED,
    )
    balance_loss_weight: float = same(
        0.0,
        "With adapter token or sentence: the weight of the loss that spreads choices over experts.",
        numbers=FROM_0,
        adapters=_LEARNED,
    )
    gate_mode: str = same(
        "paper",
        "`released` reproduces the authors' inference code.",
        choices=("paper", "released"),
        adapters=_BY_ID,
    )
    gates: str = same(
        "learned",
        "learned; or fixed: hard routing, cluster = expert (or dataset, or group = expert) with weight 1. fixed needs "
        "num_experts = K and an adapter without a universal expert (cluster or dataset).",
        choices=("learned", "fixed"),
        adapters=_BY_ID,
    )
    gate_init: str = same(
        "random",
        "How learned gates start: random; or balanced: groups of near clusters on different experts, with an even "
        "share of the samples each (adapters that route by cluster).",
        choices=("random", "balanced"),
        adapters=_BY_CLUSTER,
    )
    dataset_groups: str | None = same(
        None,
        "With adapter dataset: datasets that share their experts, as {group: [dataset, ...]} in the recipe, each "
        "dataset in one group; as JSON on the command line. None: each dataset for itself.",
        adapters=("dataset",),
    )
    train_cluster_embedding: bool = same(
        True, "Train the cluster embedding with the gates; false: it stays at the centroids.", adapters=_BY_ID
    )


@dataclass
class StageArguments:
    """What is trained, and the learning rates that differ from `learning_rate`."""

    stage: str = same(
        "finetune", "pretrain: the projector alone; finetune: it and the adapter.", choices=("pretrain", "finetune")
    )
    mm_projector_lr: float | None = same(None, "Learning rate of the projector; none: `learning_rate`.", numbers=FROM_0)
    gate_learning_rate: float | None = same(
        None,
        "Learning rate of gates and cluster embedding; none: `learning_rate`.",
        numbers=FROM_0,
        adapters=_ROUTED,
    )
    group_by_modality_length: bool = same(True, "Make batches of one modality and similar length.")
    resume: str = free(
        "auto", "auto: from the newest checkpoint in output_dir, if any; never; or a checkpoint folder.", path=True
    )
    stop_after_steps: int | None = free(
        None,
        "Save a checkpoint and stop at this step, leaving the schedule as it is; `--resume auto` goes on.",
        numbers=FROM_1,
    )
    universal_checkpoint: bool = free(
        False,
        "Resuming a DeepSpeed run on another number of processes (or another ZeRO stage): convert its optimizer state. "
        "Without it the weights and the schedule go on, and the optimizer starts afresh.",
    )
    supervised_head: bool = free(
        True,
        "Compute head and loss of supervised tokens alone, in training and validation. It needs a head that is a plain "
        "frozen linear; elsewhere a message says why not. False: logits of all tokens.",
    )
    eval_rows: int | None = free(
        None,
        "Held-out rows that a validation pass reads, the same each time: chosen by `data_seed`, of each dataset in "
        "proportion, and at least one of each dataset and cluster. 0: all. None: one for every five that are trained "
        "between two passes, so that validation takes at most a tenth of the training's time; but at least 32.",
        numbers=FROM_0,
    )
    vision_feature_cache: int = free(
        0, "Keep this many images' frozen vision features in memory (towers that offer it); 0: off.", numbers=FROM_0
    )


@dataclass
class KeyGroups:
    """The groups of this project's own keys; every list of the groups is derived from this one."""

    model: ModelArguments
    data: DataArguments
    cluster: ClusterArguments
    adapter: AdapterArguments
    stage: StageArguments


GROUPS: dict[str, type] = typing.get_type_hints(KeyGroups)
OWN_KEYS: tuple[str, ...] = tuple(item.name for group in GROUPS.values() for item in dataclasses.fields(group))
