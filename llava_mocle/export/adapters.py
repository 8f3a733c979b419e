"""Plain LoRA folders as engines read them: no trained module besides, every pair of one rank, PEFT's own names."""

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors.torch import save_file
from torch import Tensor

from llava_mocle.adapter.collapse import Pairs, cluster_pairs, lora_weights, universal_pairs
from llava_mocle.errors import CheckpointError
from llava_mocle.export.bundle import UNIVERSAL_NAME, Truncation, adapter_name
from llava_mocle.export.truncate import truncate

# The linears that SGLang multiplies at once. It passes over some of them where others of the same line are missing, and
# fails at others.
_AT_ONCE = (("gate_proj", "up_proj"), ("q_proj", "k_proj", "v_proj"))


@dataclass(frozen=True)
class Lora:
    """One plain LoRA.

    Attributes:
        name: what the engine calls it.
        pairs: site -> A (r, in), B (out, r).
        scaling: what B A is multiplied by.
        truncation: what `--rank` lost; None without it.
    """

    name: str
    pairs: Pairs
    scaling: float
    truncation: Truncation | None = None

    @property
    def rank(self) -> int:
        """r, the same at all sites."""
        return max(len(pair_A) for pair_A, _ in self.pairs.values())

    @property
    def alpha(self) -> float:
        """`lora_alpha` for this rank."""
        return self.scaling * self.rank


def loras_of(model: Any, clusters: list[int], universal: bool, rank: int | None) -> Iterator[Lora]:
    """The plain LoRA of each cluster, and of the universal expert alone; one at a time, as each may be large.

    Args:
        model: a `PeftModel` with a MoCLE adapter that is routed by cluster or dataset.
        universal: whether the last is the universal expert's.
        rank: the largest; None: as they are.
    """
    scaling = model.peft_config[model.active_adapter].scaling
    makers: list[tuple[str, Callable[[], Pairs]]] = [
        (adapter_name(cluster), partial(cluster_pairs, model, cluster)) for cluster in clusters
    ]
    if universal:
        makers.append((UNIVERSAL_NAME, partial(universal_pairs, model)))
    for name, pairs in makers:
        yield _lora(name, pairs(), scaling, rank)


def _lora(name: str, pairs: Pairs, scaling: float, rank: int | None) -> Lora:
    if rank is None:
        return Lora(name, pairs, scaling)
    found = {site: truncate(pair_A, pair_B, rank) for site, (pair_A, pair_B) in pairs.items()}
    whole = math.hypot(*(part.whole for part in found.values()))
    lost = math.hypot(*(part.lost for part in found.values()))
    truncation = Truncation(
        lost / whole if whole else 0.0,
        {site: part.lost / part.whole if part.whole else 0.0 for site, part in found.items()},
    )
    return Lora(name, {site: (part.A, part.B) for site, part in found.items()}, scaling, truncation)


def twins(sites: Collection[str], shapes: Mapping[str, tuple[int, int]]) -> list[str]:
    """What SGLang multiplies at once with some of these sites, and is none of them.

    Args:
        shapes: name of a linear -> (out, in), of every linear of the model.
    """
    found: dict[str, None] = {}
    for site in sites:
        parent, _, last = site.rpartition(".")
        found |= {f"{parent}.{name}": None for names in _AT_ONCE if last in names for name in names}
    return [name for name in found if name in shapes and name not in sites]


def with_twins(lora: Lora, shapes: Mapping[str, tuple[int, int]]) -> Lora:
    """The LoRA with zeros at its `twins`."""
    like, rank = next(iter(lora.pairs.values()))[0], lora.rank
    zeros = {
        twin: (like.new_zeros(rank, shapes[twin][1]), like.new_zeros(shapes[twin][0], rank))
        for twin in twins(lora.pairs, shapes)
    }
    return replace(lora, pairs={**lora.pairs, **zeros})


def write_lora(
    folder: Path, lora: Lora, dtype: torch.dtype, base: str, rename: Callable[[str], str] = lambda site: site
) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
        base: the base's place, as the configuration names it.
        rename: the name of a site in the model that the engine loads.

    Raises:
        CheckpointError: a weight is no finite number in this dtype.
    """
    folder.mkdir(parents=True)
    sites = {rename(site): pair for site, pair in lora.pairs.items()}
    weights = {name: _stored(tensor, dtype) for name, tensor in lora_weights(sites).items()}
    wrong = [name for name, tensor in weights.items() if not tensor.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"adapter {lora.name}: {wrong[0]} holds numbers that {str(dtype).removeprefix('torch.')} cannot hold, or "
            "the training diverged; choose --dtype bfloat16 or float32, or another checkpoint."
        )
    save_file(weights, folder / SAFETENSORS_WEIGHTS_NAME, metadata={"format": "pt"})
    # Engines take a whole number for it, or a text that starts as one.
    alpha: Any = int(lora.alpha) if float(lora.alpha).is_integer() else lora.alpha
    LoraConfig(
        r=lora.rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules=list(sites),
        bias="none",
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        inference_mode=True,
    ).save_pretrained(str(folder))


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    # Cloned, because safetensors writes neither views nor tensors that share memory.
    return tensor.detach().to("cpu", dtype).clone().contiguous()
