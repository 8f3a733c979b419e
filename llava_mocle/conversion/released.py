"""The authors' released MoCLE checkpoint (a `.pth` of LAVIS and a k-means) -> an adapter folder with its clusters.

The names, and what the file does not say (alpha, dropout, noise, top-k), are those of the authors' code,
github.com/gyhdog99/mocle: `mocle.py`, and `peft-main/src/peft/tuners/lora/layer.py`.
"""

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import InstructBlipForConditionalGeneration

from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.card import PAPER, code, public_name, table, write_card
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER
from llava_mocle.conversion.adapter_folder import (
    PREFIX,
    base_name,
    difference,
    expected_weights,
    read_config,
    write_adapter,
)
from llava_mocle.conversion.kmeans_file import read_centroids
from llava_mocle.conversion.lavis_names import bridge_name, is_derived, read_lavis
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.io.folders import new_folder, refuse_to_overwrite
from llava_mocle.model.folders import CLUSTERS_FOLDER, find_folder

# What the authors' code passes to its LoRA, and its defaults; a checkpoint does not hold them.
_ALPHA, _DROPOUT, _NOISE, _TOP_K = 32, 0.1, 0.1, 1
_UNIVERSAL = "g"
_SITE = re.compile(
    r"(?:llm_model\.)?(?:base_model\.model\.)?(?P<site>model\.layers\..+)\.(?P<part>(?:lora_A|lora_B|w_gate|task_emb)(?:\..+)?)"
)
# Components of a weight's name that PEFT's versions write or leave out.
_UNSAID = ("weight", "default")
_SBERT, _TOWER = "sbert.", "visual_encoder."
_MODULES = ("qformer", "language_projection", "vision_model.post_layernorm")
_PARAMETERS = ("query_tokens",)
# The router's weights here -> theirs, one at each site.
_ROUTER = {"gate_weight": "w_gate", "gate_bias": "w_gate.bias", "cluster_embedding": "task_emb"}


@dataclass
class Released:
    """What the authors' checkpoint holds.

    Attributes:
        sites: adapted linear, as transformers names it -> "lora_A.0", "lora_B.g", "w_gate", "w_gate.bias", "task_emb"
            -> tensor.
        trained: the weights beside the experts, as transformers names them.
        dropped: names of what is left out, because the base or the cluster model has it.
        settings: the `model` part of the configuration that the file may keep.
    """

    sites: dict[str, dict[str, Tensor]] = field(default_factory=dict)
    trained: dict[str, Tensor] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """What the shapes of a checkpoint say: E, r, K, D, and whether there is a universal expert."""

    num_experts: int
    rank: int
    num_clusters: int
    cluster_dim: int
    universal: bool


def convert_released(
    checkpoint: str | Path,
    kmeans: str | Path,
    base: str | Path,
    output: str | Path,
    *,
    temperature: float | None = None,
    encoder: str | Path = DEFAULT_ENCODER,
) -> list[str]:
    """Write the adapter folder, with the cluster model in `clusters/`. Nothing in the two files is executed.

    Args:
        checkpoint: the authors' `.pth`.
        kmeans: the k-means that they publish beside it.
        base: a folder of transformers' InstructBLIP with the same Vicuna (v1.1 for the released ones).
        output: the folder to create.
        temperature: tau of the gates; needed if the checkpoint does not keep it.
        encoder: the sentence encoder of the k-means; the authors' is all-MiniLM-L6-v2.

    Returns:
        lines that say what was read, taken from the authors' code, kept from the base and left out.

    Raises:
        CheckpointError: the checkpoint has a weight that nobody knows, lacks one, or does not fit the base.
        ClusterModelError: the k-means cannot be read, or is of another K or D.
        ConfigError: the temperature is missing, or another one than the checkpoint keeps.
    """
    refuse_to_overwrite(output)
    checkpoint, kmeans = Path(checkpoint), Path(kmeans)
    base_folder = find_folder(base, "a folder of transformers' InstructBLIP")
    released = read_released(checkpoint)
    facts = read_facts(checkpoint, released)
    tau = _temperature(checkpoint, released.settings.get("gates_tmp"), temperature)
    centroids = read_centroids(kmeans)
    if centroids.shape != (facts.num_clusters, facts.cluster_dim):
        raise CheckpointError(
            f"{kmeans}: has {centroids.shape[0]} centroids of {centroids.shape[1]} numbers, but {checkpoint} was "
            f"trained with {facts.num_clusters} of {facts.cluster_dim}; give the k-means published for this checkpoint."
        )
    config = _config(released, facts, tau, base_name(base))
    weights = _weights(checkpoint, released, facts, config, base_folder)
    clusters = ClusterModel.from_centroids(centroids, encoder=encoder)
    lines = _lines(released, facts, config, clusters)
    with new_folder(output) as folder:
        write_adapter(folder, config, weights)
        clusters.save(folder / CLUSTERS_FOLDER)
        _write_card(folder, checkpoint, lines, config)
    return lines


def read_released(checkpoint: Path) -> Released:
    """The authors' checkpoint, every weight of it under its own name here, or named as dropped.

    Raises:
        CheckpointError: it cannot be read, or has a weight that is neither.
    """
    state, settings = read_lavis(checkpoint)
    released = Released(settings=settings)
    unknown = []
    for name, tensor in state.items():
        match = _SITE.fullmatch(name)
        if name.startswith((_SBERT, _TOWER)) or is_derived(name):
            released.dropped.append(name)
        elif match:
            part = ".".join(word for word in match["part"].split(".") if word not in _UNSAID)
            released.sites.setdefault(f"language_model.{match['site']}", {})[part] = tensor
        elif (ours := bridge_name(name)) is not None:
            released.trained[ours] = tensor
        else:
            unknown.append(name)
    if unknown:
        raise CheckpointError(
            f"{checkpoint}: {len(unknown)} weight(s) have no place in an adapter, for example "
            f"{', '.join(sorted(unknown)[:3])}. Expected the experts and gates in llm_model.*, Qformer.bert.*, "
            "query_tokens, llm_proj.*, ln_vision.*, as LAVIS saves what was trained."
        )
    if not released.sites:
        raise CheckpointError(
            f"{checkpoint}: has no experts (llm_model.*.lora_A.0 ...), so it is no MoCLE checkpoint. "
            "An InstructBLIP of LAVIS is converted with --lavis."
        )
    return released


def read_facts(checkpoint: Path, released: Released) -> Facts:
    """What the shapes say, the same at every site, and what the kept configuration must agree with.

    Raises:
        CheckpointError: a site lacks a weight or has one of another shape, or the configuration says otherwise.
    """
    first, parts = next(iter(released.sites.items()))
    for needed in ("w_gate", "w_gate.bias", "task_emb", "lora_A.0", "lora_B.0"):
        if needed not in parts:
            raise CheckpointError(f"{checkpoint}: {first} has no {needed}; it is no MoCLE checkpoint, or is damaged.")
    universal = f"lora_A.{_UNIVERSAL}" in parts
    num_experts = parts["w_gate"].shape[0]
    experts = [*map(str, range(num_experts)), *([_UNIVERSAL] if universal else [])]
    expected = {f"lora_{half}.{name}" for half in "AB" for name in experts} | {"w_gate", "w_gate.bias", "task_emb"}
    for site, found in released.sites.items():
        if set(found) != expected:
            odd = sorted(expected.symmetric_difference(found))
            raise CheckpointError(
                f"{checkpoint}: {site} lacks, or has besides, {', '.join(odd[:3])}; its gate is for {num_experts} "
                "experts, numbered from 0, and every site has the same weights."
            )
    num_clusters, cluster_dim = parts["task_emb"].shape
    facts = Facts(num_experts, parts["lora_A.0"].shape[0], num_clusters, cluster_dim, universal)
    kept = {
        "num_experts": facts.num_experts,
        "lora_rank": facts.rank,
        "total_tasks": facts.num_clusters,
        "g_enable": facts.universal,
    }
    for key, value in kept.items():
        if released.settings.get(key, value) != value:
            raise CheckpointError(
                f"{checkpoint}: its configuration says {key} {released.settings[key]!r}, but its weights are of "
                f"{value!r}; the file is damaged, or its parts are of two runs."
            )
    return facts


def _temperature(checkpoint: Path, kept: Any, given: float | None) -> float:
    if kept is not None and (not isinstance(kept, (int, float)) or isinstance(kept, bool)):
        raise CheckpointError(f"{checkpoint}: its configuration says gates_tmp {kept!r}, expected a number.")
    if kept is not None and given is not None and not math.isclose(kept, given, rel_tol=1e-6):
        raise ConfigError(
            f"--temperature is {given}, but {checkpoint} was trained with {kept} (gates_tmp): leave it out."
        )
    tau = kept if kept is not None else given
    if tau is None:
        raise ConfigError(
            f"{checkpoint} does not keep the temperature of its gates: give --temperature. The name of a released "
            "checkpoint says it (c64_t005: 0.05; c64_t010: 0.10), as does gates_tmp in the mocle.yaml that it is "
            "run with. The paper's is 0.05."
        )
    return float(tau)


def _config(released: Released, facts: Facts, temperature: float, base: str) -> MocleConfig:
    names = sorted({re.escape(site.rpartition(".")[2]) for site in released.sites})
    trained = [f"{name}." for name in released.trained]
    modules, parameters = (
        [name for name in group if any(weight.startswith(f"{name}.") for weight in trained)]
        for group in (_MODULES, _PARAMETERS)
    )
    return MocleConfig(
        task_type="CAUSAL_LM",
        inference_mode=True,
        base_model_name_or_path=base,
        target_modules=rf"language_model\..*\.({'|'.join(names)})",
        modules_to_save=modules or None,
        parameters_to_save=parameters or None,
        r=facts.rank,
        lora_alpha=_ALPHA,
        lora_dropout=_DROPOUT,
        num_experts=facts.num_experts,
        universal_expert=facts.universal,
        num_clusters=facts.num_clusters,
        cluster_dim=facts.cluster_dim,
        top_k=released.settings.get("topk", _TOP_K),
        temperature=temperature,
        gate_mode="released",
        gate_noise_std=released.settings.get("noise_std", _NOISE),
    )


def _weights(checkpoint: Path, released: Released, facts: Facts, config: MocleConfig, base: Path) -> dict[str, Tensor]:
    """The adapter's weights, as PEFT saves them. Fills `config.sites` with the order of the gates.

    Raises:
        CheckpointError: they are not those of an adapter on this base.
    """
    settings = read_config(base, InstructBlipForConditionalGeneration)
    expected, sites = expected_weights(InstructBlipForConditionalGeneration, settings, config)
    config.sites = sites
    if set(sites) != set(released.sites):
        odd = sorted(set(sites).symmetric_difference(released.sites))
        raise CheckpointError(
            f"{checkpoint}: adapts {len(released.sites)} linears, and in {base} there are {len(sites)} of these names; "
            f"they differ in {', '.join(odd[:3])}. Give the InstructBLIP with the language model of the checkpoint."
        )
    experts = [*map(str, range(facts.num_experts)), *([_UNIVERSAL] if facts.universal else [])]
    try:
        weights = {PREFIX + name: tensor for name, tensor in released.trained.items()}
        for site in sites:
            parts = released.sites[site]
            for half in "AB":
                stack = torch.stack([parts[f"lora_{half}.{name}"] for name in experts])
                weights[f"{PREFIX}{site}.mocle_experts.experts_{half}"] = stack
        for ours, theirs in _ROUTER.items():
            weights[f"base_model.mocle_router.{ours}"] = torch.stack([released.sites[site][theirs] for site in sites])
    except RuntimeError as error:
        raise CheckpointError(
            f"{checkpoint}: its experts or gates differ in shape from one another ({error})."
        ) from error
    if (reason := difference(expected, weights)) is not None:
        raise CheckpointError(f"{checkpoint}: does not fit {base}: {reason}.")
    return weights


def _lines(released: Released, facts: Facts, config: MocleConfig, clusters: ClusterModel) -> list[str]:
    """What was read, taken from the authors' code, kept from the base, and left out."""
    kept = {key: released.settings[key] for key in ("gates_tmp", "topk", "noise_std") if key in released.settings}
    tau = "the checkpoint's configuration" if "gates_tmp" in kept else "--temperature"
    settled = {"alpha": _ALPHA, "dropout": _DROPOUT}
    settled |= {} if "noise_std" in kept else {"gate noise in training": _NOISE}
    settled |= {} if "topk" in kept else {"top-k": _TOP_K}
    missing = {*_MODULES, *_PARAMETERS} - {*(config.modules_to_save or []), *(config.parameters_to_save or [])}
    language_model = released.settings.get("llm_model")
    lines = [
        f"read from the weights: {len(released.sites)} sites, E {facts.num_experts}, universal expert "
        f"{'yes' if facts.universal else 'no'}, r {facts.rank}, K {facts.num_clusters}, D {facts.cluster_dim}",
        f"temperature: {config.temperature:g}, from {tau}",
        f"from the authors' code: {', '.join(f'{name} {value:g}' for name, value in settled.items())}",
        "language model: the file does not hold it; the authors' is Vicuna-7B v1.1"
        + (f" (the checkpoint's configuration: {public_name(language_model)})" if language_model else ""),
        f"routing: the whole prompt, embedded by {public_name(clusters.config.encoder)}, to the nearest of the "
        "k-means' centroids",
        f"left out: {_groups(released.dropped)}" if released.dropped else "left out: nothing",
    ]
    lines.append("not known: the instructions that were clustered, so clusters have no sizes and no examples")
    if missing:
        lines.append(f"not in the file, so the base's are used: {', '.join(sorted(missing))}")
    return lines


def _groups(names: list[str]) -> str:
    groups: dict[str, int] = {}
    for name in names:
        group = "position ids and rotary frequencies" if is_derived(name) else f"{name.partition('.')[0]}.*"
        groups[group] = groups.get(group, 0) + 1
    return ", ".join(f"{group} ({count})" for group, count in sorted(groups.items()))


def _write_card(folder: Path, checkpoint: Path, lines: list[str], config: MocleConfig) -> None:
    base = public_name(config.base_model_name_or_path)
    write_card(
        folder,
        f"{checkpoint.stem}: the authors' MoCLE on InstructBLIP",
        base,
        ["instructblip"],
        [
            f"Converted from the checkpoint that the authors of MoCLE ({PAPER}) released, by `llava-mocle convert`. "
            "Its gates compute as the authors' code does (`gate_mode` released), but in float32 where that runs in "
            "fp16.",
            table([("base", base), *((line.partition(": ")[0], line.partition(": ")[2]) for line in lines)]),
            "## Load",
            code(
                "import llava_mocle.adapter  # registers the adapter type MOCLE with PEFT",
                "from peft import PeftConfig, PeftModel",
                "from transformers import InstructBlipForConditionalGeneration",
                "",
                'base = PeftConfig.from_pretrained(".").base_model_name_or_path  # or the place that it has moved to',
                "model = InstructBlipForConditionalGeneration.from_pretrained(base)",
                'model = PeftModel.from_pretrained(model, ".").eval()',
            ),
        ],
    )
