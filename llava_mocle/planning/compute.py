"""Operations of a step: 2 for each multiply-add of a matrix product; what is elementwise is left out.

A linear takes 2 x parameters x tokens forward. Backward, a frozen one needs the gradient of its input (the same again),
a trained one that of its weights as well (twice the forward). Attention (scores and values, the whole square, as it is
usually counted) takes 4 T^2 x width a layer forward, twice that backward. Gradient checkpointing runs the layers'
forward once more. The head may run for supervised tokens alone. The gates' products (S E D a sample) are too small to
count.
"""

from dataclasses import astuple, dataclass

from llava_mocle.planning.hardware import Gpu
from llava_mocle.planning.shapes import ModelShape


@dataclass(frozen=True)
class Flops:
    """Operations, forward (`recomputed` included) and backward together, by part.

    `layers`: frozen linears of the language model; `recomputed`: what gradient checkpointing runs again.
    """

    layers: int
    attention: int
    experts: int
    head: int
    projector: int
    vision: int
    recomputed: int

    @property
    def total(self) -> int:
        return sum(astuple(self))


def reached_mfu(mfu: float, tokens: float, gpu: Gpu) -> float:
    """The share of the dense peak that micro-batches of `tokens` tokens reach.

    `mfu` is what large ones reach. Every micro-batch reads all weights once a pass, so a small one spends more of its
    time on reading: its share is `mfu` x tokens / (tokens + `gpu.balance`). An estimate from data sheets: it supposes
    that reading comes on top of multiplying, and that the memory reaches the same share of its peak.
    """
    return mfu * tokens / (tokens + gpu.balance)


def forward_flops(
    shape: ModelShape, *, samples: float, length: float, images: float, supervised: float | None = None
) -> Flops:
    """One forward of `samples` samples of `length` tokens, with `images` images among them.

    Args:
        supervised: tokens of all samples that the head runs for; None: for every token.
    """
    tokens = samples * length
    tower = shape.tower.linear_flops + shape.tower.attention_flops + shape.tower.other_flops
    return Flops(
        layers=round(2 * shape.layer_linear * tokens),
        attention=round(4 * samples * length**2 * shape.query_width * shape.layers),
        experts=round(_expert_flops(shape) * tokens),
        head=round(2 * shape.hidden * shape.vocab * (tokens if supervised is None else supervised)),
        projector=round(shape.connector.forward_flops * images),
        vision=round(tower * images),
        recomputed=0,
    )


def training_flops(
    shape: ModelShape,
    *,
    samples: float,
    length: float,
    images: float,
    checkpointing: bool,
    supervised: float | None = None,
) -> Flops:
    """Forward and backward of the same; see `forward_flops`."""
    once = forward_flops(shape, samples=samples, length=length, images=images, supervised=supervised)
    recomputed = once.layers + once.attention + once.experts if checkpointing else 0
    return Flops(
        layers=2 * once.layers,
        attention=3 * once.attention,
        experts=3 * once.experts,
        head=2 * once.head,
        projector=once.projector + round(shape.connector.backward_flops * images),
        vision=once.vision,
        recomputed=recomputed,
    )


def _expert_flops(shape: ModelShape) -> int:
    """A token's forward through the experts that it takes, at all sites."""
    if shape.experts is None:
        return 0
    widths = sum(site.in_features + site.out_features for sites in shape.layer_sites for site in sites)
    return 2 * shape.experts.active * shape.experts.rank * widths
