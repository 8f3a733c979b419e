"""Memory of one GPU (and of the host, under offload), part by part."""

from dataclasses import dataclass

from llava_mocle.planning.activations import Activations
from llava_mocle.planning.hardware import GIB
from llava_mocle.planning.precision import Precision, quantized_bytes
from llava_mocle.planning.shapes import ModelShape

# DeepSpeed's defaults where the shipped configurations leave them: most parameters gathered at once, and the size of
# a group of parameters that the optimizer steps over.
_MAX_LIVE = 10**9
_SUB_GROUP = 10**9
# Assumed, not measured: CUDA context, NCCL's buffers and cuBLAS workspaces; and what fragmentation wastes.
CONTEXT = 3 * GIB // 2
FRAGMENTATION = 0.1


@dataclass(frozen=True)
class Strategy:
    """How the model's state is split over the GPUs.

    Attributes:
        key: short name, for flags and JSON.
        title: for people.
        stage: of ZeRO; 0: every GPU holds everything, without DeepSpeed.
        offload: parameters and optimizer live in the host's memory.
        config: the DeepSpeed configuration that ships for it.
    """

    key: str
    title: str
    stage: int
    offload: bool
    config: str | None


DDP = Strategy("ddp", "no DeepSpeed", 0, False, None)
ZERO2 = Strategy("zero2", "ZeRO-2", 2, False, "zero_configs/zero2.json")
ZERO3 = Strategy("zero3", "ZeRO-3", 3, False, "zero_configs/zero3.json")
OFFLOAD = Strategy("zero3_offload", "ZeRO-3 + offload", 3, True, "zero_configs/zero3_offload.json")
# From the simplest to the most involved.
STRATEGIES = (DDP, ZERO2, ZERO3, OFFLOAD)


def strategies_for(bits: int) -> tuple[Strategy, ...]:
    """Those that can hold frozen linears of so many bits: ZeRO-3 cannot divide quantized ones."""
    return tuple(item for item in STRATEGIES if bits == 16 or item.stage < 3)


@dataclass(frozen=True)
class State:
    """Bytes on one GPU (`host`: in one node's memory) that are there whatever the batch.

    Attributes:
        language_model, vision_tower, projector: frozen weights; the projector's is the original that PEFT keeps
            beside the trained copy.
        trainable: weights of experts, router and trained projector.
        gradients: of the trainable parameters.
        optimizer: moments, and the float32 master copy where there is one.
        buckets: buffers of the communication, and under ZeRO-3 the parameters gathered at a time.
        step: needed during the optimizer's step only, when no activations are held.
        host: all of the above that is kept in the host's memory instead, for all GPUs of a node.
    """

    language_model: int
    vision_tower: int
    projector: int
    trainable: int
    gradients: int
    optimizer: int
    buckets: int
    step: int
    host: int = 0

    @property
    def resident(self) -> int:
        """Everything but `step` and `host`."""
        weights = self.language_model + self.vision_tower + self.projector + self.trainable
        return weights + self.gradients + self.optimizer + self.buckets

    def peak(self, activations: Activations) -> int:
        """The most that is held at a time: in backward, or in the optimizer's step."""
        return self.resident + max(activations.peak, self.step)

    def total(self, activations: Activations, memory: int) -> int:
        """`peak` with what is set aside on a GPU of this memory."""
        return self.peak(activations) + CONTEXT + round(FRAGMENTATION * memory)


def share(number: int, parts: int) -> int:
    """The largest part when `number` things are split evenly, rounded up."""
    return -(-number // parts)


def _language_model(shape: ModelShape, precision: Precision, parts: int) -> int:
    """Bytes of a GPU's part of the frozen language model."""
    if not precision.quantized:
        return share(shape.counts.language_model, parts) * precision.weights
    stored = quantized_bytes(shape.layer_linear, shape.layer_rows, precision.bits, precision.double_quant)
    return stored + (shape.counts.language_model - shape.layer_linear) * precision.weights


def model_state(
    shape: ModelShape, strategy: Strategy, precision: Precision, *, gpus: int, gpus_per_node: int | None = None
) -> State:
    """What a GPU holds besides activations.

    Args:
        gpus: of all nodes.
        gpus_per_node: how many share a host's memory; default: all.
    """
    counts = shape.counts
    # Into how many parts the weights are split, and the gradients and the optimizer's state.
    parts, trained_parts = gpus if strategy.stage == 3 else 1, gpus if strategy.stage else 1
    weights = {
        "language_model": _language_model(shape, precision, parts),
        "vision_tower": share(counts.vision_tower, parts) * precision.weights,
        "projector": share(counts.frozen_projector, parts) * precision.weights,
        "trainable": share(counts.trainable, parts) * precision.trainable,
    }
    trained = share(counts.trainable, trained_parts)
    gradients = trained * precision.gradients
    optimizer = trained * (precision.master + precision.moments)
    step = 0
    if strategy.stage == 0:
        # DDP's own copy of all gradients, from which it sends.
        buckets = gradients if gpus > 1 else 0
    else:
        buckets = 2 * shape.hidden**2 * precision.gradients
        step = trained * precision.master
    if strategy.stage == 3:
        gathered = min(counts.all, _MAX_LIVE) if gpus > 1 or strategy.offload else 0
        buckets += (gathered + shape.small) * precision.weights
        step = min(trained, _SUB_GROUP) * precision.master
    if not strategy.offload:
        return State(**weights, gradients=gradients, optimizer=optimizer, buckets=buckets, step=step)
    # The host keeps float32 gradients of the whole partition, pinned.
    held = sum(weights.values()) + optimizer + trained * (precision.gradients + precision.master)
    host = held * (gpus_per_node or gpus)
    return State(**dict.fromkeys(weights, 0), gradients=gradients, optimizer=0, buckets=buckets, step=0, host=host)
