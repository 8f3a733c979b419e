"""What a forward pass keeps for backward, in bytes: counted operator by operator from what autograd really saves.

A frozen linear keeps nothing of its input (its gradient needs the weight alone), so the list is short. For B samples of
T tokens, N = B T, in one layer of a Llama-like decoder:

    both RMSNorms       their input in float32, and one value a token
    attention           queries, keys, values and output; a value a token and head; the mask, widened in every layer
    gate_proj, SiLU, x  three tensors of the intermediate width
    experts of a site   the site's input (shared by the sites that have the same), a copy of it in expert order, and
                        the rank-wide product before and after its gate, for each expert that a sample takes
"""

from dataclasses import dataclass

from llava_mocle.planning.precision import FLOAT32, Precision
from llava_mocle.planning.shapes import Experts, ModelShape, Site

# Which tensor of the layer a linear reads. Only `eager` attention does not keep its output itself.
_INPUT_OF = {"q_proj": "norm1", "k_proj": "norm1", "v_proj": "norm1", "o_proj": "attention"}
_INPUT_OF |= {"gate_proj": "norm2", "up_proj": "norm2", "down_proj": "product"}


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one GPU.

    Attributes:
        samples: B.
        length: T, the longest sample, image tokens included; every sample is padded to it.
        images: images of all samples together.
        padded: whether any sample is shorter, so that there is a mask.
    """

    samples: int
    length: int
    images: int
    padded: bool = True

    @property
    def tokens(self) -> int:
        """N = B T, padding included."""
        return self.samples * self.length


def layer_bytes(shape: ModelShape, sites: tuple[Site, ...], batch: Batch, precision: Precision, attention: str) -> int:
    """Kept by one decoder layer with these sites.

    Args:
        attention: `eager` keeps every probability; `sdpa` keeps a widened mask; `flash_attention_2` neither.
    """
    tokens, size = batch.tokens, precision.compute
    norms = 2 * tokens * (shape.hidden + 1) * FLOAT32
    shared = {_INPUT_OF.get(site.name, site.name): site.in_features for site in sites}
    if attention != "eager":
        shared.pop("attention", None)
    if precision.autocast or not _reads_shared(shape.experts, batch):
        shared = {}  # what the experts read instead, casts or copies, is counted as theirs
    inputs = tokens * size * sum(shared.values())
    mlp = 3 * tokens * shape.intermediate * precision.stream
    adapters = sum(_site_bytes(shape.experts, site, batch, precision) for site in sites if shape.experts)
    return norms + _attention_bytes(shape, batch, size, attention) + inputs + mlp + adapters


def _attention_bytes(shape: ModelShape, batch: Batch, size: int, attention: str) -> int:
    tokens, squares = batch.tokens, batch.samples * batch.length**2
    # Keys and values are repeated for every query head, except where the kernel does that itself.
    grouped = attention == "flash_attention_2" or (attention == "sdpa" and not batch.padded)
    keys = shape.key_width if grouped else shape.query_width
    kept = tokens * (shape.query_width + 2 * keys) * size
    if attention == "eager":
        return kept + shape.heads * squares * (FLOAT32 if size == FLOAT32 else FLOAT32 + size)
    kept += tokens * (shape.query_width * size + shape.heads * FLOAT32)
    return kept + (squares * size if attention == "sdpa" and batch.padded else 0)


def _moves(experts: Experts, batch: Batch) -> bool:
    """Whether samples are copied into expert order: those that are in order by chance are counted as if they were."""
    return experts.routed and batch.samples * experts.top_k > 1


def _reads_shared(experts: Experts | None, batch: Batch) -> bool:
    """Whether any expert reads a site's input itself: the universal one, or all where nothing is moved."""
    return experts is None or experts.universal or not _moves(experts, batch)


def _site_bytes(experts: Experts | None, site: Site, batch: Batch, precision: Precision) -> int:
    if experts is None:
        return 0
    size, rows = precision.compute, batch.tokens * experts.active
    middle = rows * experts.rank * size * (2 if experts.routed else 1)
    if precision.autocast:
        inputs = rows * site.in_features
    else:
        inputs = batch.tokens * experts.top_k * site.in_features if _moves(experts, batch) else 0
    dropout = batch.tokens * site.in_features * (size + 1) if experts.dropout else 0
    casts = 0
    if precision.autocast:
        used = min(experts.slots, experts.top_k * batch.samples + int(experts.universal))
        casts = used * experts.rank * (site.in_features + site.out_features) * size
    return middle + inputs * size + dropout + casts


@dataclass(frozen=True)
class Activations:
    """Bytes on one GPU while a micro-batch goes through.

    Attributes:
        kept: saved for backward, the loss left out.
        loss: logits in float32: their log-softmax, its gradient, and the gradient of the logits, at the same time.
        layer: the most that backward through one layer needs besides `kept`: what is recomputed, and gradients.
    """

    kept: int
    loss: int
    layer: int

    @property
    def peak(self) -> int:
        """The loss's tensors are gone when backward reaches the layers."""
        return self.kept + max(self.loss, self.layer)


def _inputs_of_linears(shape: ModelShape, tokens: int, precision: Precision) -> int:
    """What bitsandbytes' 8-bit products keep in one layer, also in a layer that is checkpointed.

    They hold their input themselves, and not through autograd's saved tensors, which checkpointing drops.
    """
    norms_and_product = 2 * shape.hidden + shape.intermediate
    return tokens * (norms_and_product * precision.stream + shape.query_width * precision.compute)


def activations(
    shape: ModelShape, batch: Batch, precision: Precision, *, checkpointing: bool, attention: str = "sdpa"
) -> Activations:
    """What one micro-batch needs, with every decoder layer checkpointed or none."""
    tokens, size = batch.tokens, precision.compute
    layers = [layer_bytes(shape, sites, batch, precision, attention) for sites in shape.layer_sites]
    casts = 0
    if precision.weights > precision.compute and not precision.quantized:  # frozen weights are cast as well, and kept
        casts = size * shape.layer_linear
    if checkpointing:
        kept = shape.layers * tokens * shape.hidden * precision.stream
        recomputed = max(layers) + casts // shape.layers
    else:
        kept = sum(layers) + casts
        recomputed = 0
    kept += tokens * (shape.hidden + 1) * FLOAT32  # the last norm
    kept += batch.images * shape.connector.kept * size
    working = 4 * tokens * shape.intermediate * precision.stream + 2 * tokens * shape.hidden * FLOAT32
    if precision.quantized:
        working += shape.hidden * shape.intermediate * size  # the largest linear, dequantized
    if precision.bits == 8:
        kept += shape.layers * _inputs_of_linears(shape, tokens, precision)
    return Activations(kept=kept, loss=3 * tokens * shape.vocab * FLOAT32, layer=recomputed + working)
