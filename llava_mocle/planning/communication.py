"""Bytes that a GPU sends in one optimizer step, and how long that takes if nothing is hidden behind computing.

Rings over n GPUs: a gather or a scatter of S bytes sends (n - 1) / n S from each GPU, an all-reduce twice that.
"""

from dataclasses import dataclass

from llava_mocle.planning.hardware import GB, Cluster
from llava_mocle.planning.memory import Strategy
from llava_mocle.planning.precision import Precision
from llava_mocle.planning.shapes import ModelShape

# PCIe 4.0 x16, one direction, at the share of it that copies from pinned memory are assumed to reach.
_HOST_LINK = 0.7 * 32 * GB


@dataclass(frozen=True)
class Traffic:
    """Bytes of one GPU in one optimizer step.

    Attributes:
        gathered: parameters, received from the others.
        reduced: gradients, sent to the others.
        host: moved between GPU and host.
    """

    gathered: int
    reduced: int
    host: int = 0

    def seconds(self, cluster: Cluster) -> float:
        """With nothing overlapped."""
        return (self.gathered + self.reduced) / cluster.bandwidth + self.host / _HOST_LINK


def traffic(
    shape: ModelShape,
    strategy: Strategy,
    precision: Precision,
    *,
    gpus: int,
    accumulation: int,
    checkpointing: bool,
) -> Traffic:
    """Of one optimizer step of `accumulation` micro-batches.

    DDP reduces once a step, ZeRO-2 and ZeRO-3 in every micro-batch. ZeRO-3 gathers every parameter in forward and
    backward, and the layers once more where they are recomputed; the frozen vision tower only where it runs.
    """
    counts = shape.counts
    updated, gradients = counts.trainable * precision.trainable, counts.trainable * precision.gradients
    if strategy.stage == 0:
        return Traffic(gathered=0, reduced=_ring(2 * gradients, gpus))
    reduced = _ring(gradients, gpus) * accumulation
    if strategy.stage == 2:
        return Traffic(gathered=_ring(updated, gpus), reduced=reduced)
    others = counts.all - counts.vision_tower - counts.frozen_projector
    gathered = ((3 if checkpointing else 2) * others + counts.vision_tower) * precision.weights
    host = (gathered + gradients) // gpus * accumulation + updated // gpus if strategy.offload else 0
    return Traffic(gathered=_ring(gathered, gpus) * accumulation, reduced=reduced, host=host)


def _ring(size: int, gpus: int) -> int:
    return size * (gpus - 1) // gpus
