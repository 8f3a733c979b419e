"""A request as the model takes it, made without the model's weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llava_mocle.data.instruction_tokens import INSTRUCTION_IDS, padded_instructions
from llava_mocle.errors import DataError
from llava_mocle.inference.request import Request


@dataclass(frozen=True)
class Prepared:
    """A request as the model takes it.

    Attributes:
        sample: as `Encoder.prompt` makes it.
        routing: the adapter's inputs, by name, for this request.
        cluster_id, cluster_distance: as in `Prediction`.
    """

    sample: Mapping[str, Any]
    routing: Mapping[str, Any]
    cluster_id: int | None
    cluster_distance: float | None

    @property
    def length(self) -> int:
        """Tokens of the prompt, those of images included."""
        return len(self.sample["input_ids"])


def routing_tensors(routings: Sequence[Mapping[str, Any]], device: torch.device) -> dict[str, Tensor]:
    """The adapter's inputs for requests together, from those of each."""
    tensors = {}
    for name in routings[0]:
        values = [routing[name] for routing in routings]
        together = padded_instructions(values) if name == INSTRUCTION_IDS else torch.tensor(values)
        tensors[name] = together.to(device)
    return tensors


def check_length(request: Request, length: int, limit: int | None) -> None:
    """Refuse a prompt that leaves no room for an answer.

    Args:
        length: its tokens, those of images included.
        limit: how many tokens the model reads; None: not known.

    Raises:
        DataError: says both.
    """
    if limit is not None and length >= limit:
        raise DataError(
            f"prompt {request.prompt[:60]!r}...: {length} tokens with its images, but the model reads at most "
            f"{limit}; shorten it or give fewer images."
        )
