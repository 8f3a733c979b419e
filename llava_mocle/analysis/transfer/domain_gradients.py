"""The gradients that batches of each dataset give to what all datasets train, as inner products."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor, nn

from llava_mocle.adapter import MocleConfig
from llava_mocle.errors import ConfigError
from llava_mocle.training.setup.parameter_groups import group_of

PROJECTOR, LORA_A, LORA_B = "projector", "LoRA A", "LoRA B"
# A part of more values than this is not kept as it is, but as a sketch of so many.
MOST_VALUES = 1 << 22


@dataclass(frozen=True)
class Shared:
    """A parameter, or a slot of it, that every dataset trains.

    Attributes:
        part: what it belongs to: `PROJECTOR`, `LORA_A` or `LORA_B`.
        parameter: the parameter.
        slot: the slot of stacked experts that is shared; None: all of it.
    """

    part: str
    parameter: nn.Parameter
    slot: int | None = None

    @property
    def size(self) -> int:
        """How many values are shared."""
        return self.parameter.numel() // (1 if self.slot is None else len(self.parameter))

    def gradient(self) -> Tensor:
        """Its gradient, flat, in float32 or better."""
        gradient = self.parameter.grad
        if gradient is None:
            return torch.zeros(self.size)
        gradient = gradient if self.slot is None else gradient[self.slot]
        return gradient.detach().to(torch.promote_types(gradient.dtype, torch.float32)).flatten()


def shared_parameters(model: nn.Module) -> list[Shared]:
    """What every dataset trains: the projector and what is trained beside it, and the expert that all samples use.

    That is the universal expert, or the only expert of a single LoRA. Without either, only the projector is shared.
    Gates and cluster embedding are not: each cluster has its own.
    """
    slot = None
    if isinstance(model, PeftModel):
        config = model.peft_config["default"]
        assert isinstance(config, MocleConfig)
        slot = 0 if config.router == "none" else config.num_experts if config.universal_expert else None
    found = []
    for name, parameter in model.named_parameters():
        kind = group_of(name)
        if not parameter.requires_grad or kind == "router" or (kind == "experts" and slot is None):
            continue
        if kind == "experts":
            found.append(Shared(LORA_A if re.search(r"experts_A\b", name) else LORA_B, parameter, slot))
        else:
            found.append(Shared(PROJECTOR, parameter))
    return found


@dataclass(frozen=True)
class DomainGradients:
    """Inner products of the gradients of N batches.

    Attributes:
        names: the datasets.
        dataset_of: (N,) the dataset of each batch.
        products: part -> (N, N).
        sizes: part -> how many values it has.
        silent: the parts whose gradient is zero in every batch.
        batch_size: rows of a batch.
        sketched: whether the products are of sketches.
    """

    names: tuple[str, ...]
    dataset_of: np.ndarray
    products: Mapping[str, np.ndarray]
    sizes: Mapping[str, int]
    silent: tuple[str, ...]
    batch_size: int
    sketched: bool


class Sketch:
    """Keeps inner products of long vectors in short ones: each value goes, with a sign, into a place drawn by chance.

    The inner product of two sketches of M values is that of the vectors, off by about |a| |b| / sqrt(M) (Charikar, Chen
    and Farach-Colton, 2002). Places and signs follow from the seed, so that all vectors are treated alike.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed

    def of(self, pieces: Iterator[Tensor]) -> Tensor:
        """The sketch (M,) of a vector that comes in pieces."""
        generator = torch.Generator().manual_seed(self.seed)
        result = torch.zeros(self.length)
        for piece in pieces:
            for part in piece.cpu().split(MOST_VALUES):
                place = torch.randint(self.length, part.shape, generator=generator)
                sign = torch.randint(2, part.shape, generator=generator, dtype=torch.int8).float().mul_(2).sub_(1)
                result.index_add_(0, place, part.float() * sign)
        return result


def measure_gradients(
    model: nn.Module,
    batches: Iterable[tuple[int, Any]],
    names: Sequence[str],
    loss_of: Callable[[nn.Module, Any], Tensor],
    *,
    batch_size: int = 0,
    most: int = MOST_VALUES,
) -> DomainGradients:
    """The gradient of each batch with respect to what all datasets train, as inner products in float64.

    Args:
        model: its parameters with `requires_grad` are what is trained. Their gradients are gone afterwards.
        batches: (dataset, batch), N of them; they may be loaded as they are asked for.
        names: of the datasets.
        loss_of: (model, batch) -> the loss, a scalar.
        batch_size: rows of a batch, for the record.
        most: parts of more values than this are kept as sketches of so many.

    Raises:
        ConfigError: nothing is shared that could be compared.
    """
    shared = shared_parameters(model)
    parts = {part: [one for one in shared if one.part == part] for part in (PROJECTOR, LORA_A, LORA_B)}
    sizes = {part: sum(one.size for one in own) for part, own in parts.items() if own}
    if not sizes:
        raise ConfigError("the run trains nothing that all of its datasets share, so there is nothing to compare")
    kept: dict[str, list[Tensor]] = {part: [] for part in sizes}
    dataset_of = []
    for dataset, batch in batches:
        dataset_of.append(dataset)
        model.zero_grad(set_to_none=True)
        loss_of(model, batch).backward()
        for part, size in sizes.items():
            pieces = (one.gradient() for one in parts[part])
            kept[part].append(Sketch(most, 0).of(pieces) if size > most else torch.cat([p.cpu() for p in pieces]))
    model.zero_grad(set_to_none=True)
    products = {part: _products(torch.stack(vectors)) for part, vectors in kept.items()}
    silent = tuple(part for part, values in products.items() if not values.any())
    if len(silent) == len(sizes):
        raise ConfigError("every gradient of what the datasets share is zero, so there is nothing to compare")
    return DomainGradients(
        names=tuple(names),
        dataset_of=np.array(dataset_of),
        products={part: values for part, values in products.items() if part not in silent},
        sizes=sizes,
        silent=silent,
        batch_size=batch_size,
        sketched=any(size > most for size in sizes.values()),
    )


def _products(vectors: Tensor) -> np.ndarray:
    """(N, N) inner products of (N, P), summed in float64."""
    result = torch.zeros(len(vectors), len(vectors), dtype=torch.float64)
    for part in vectors.split(1 << 20, dim=1):
        wide = part.double()
        result += wide @ wide.T
    return result.numpy()
