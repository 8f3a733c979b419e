"""What a forward pass keeps for backward, in bytes: counted operator by operator from what autograd really saves.

A frozen linear keeps nothing of its input (its gradient needs the weight alone), so the list is short. For B samples of
T tokens, N = B T, in one layer of a Llama-like decoder:

    both RMSNorms       their input in float32, and one value a token
    attention           queries, keys, values and output; a value a token and head; the mask, widened in every layer
    gated MLP           as one function: its input and two tensors of the intermediate width; else three of these
    experts of a site   the site's input (shared by the sites that have the same), and the rank-wide product for each
                        expert that a sample takes; on the plain path also a copy of the input in expert order, and the
                        product after its gate. By token: the products of all experts, before and after their gates
"""

from dataclasses import dataclass

from llava_mocle.model.supervised_head import tokens_at_a_time
from llava_mocle.planning.precision import FLOAT32, Precision
from llava_mocle.planning.shapes import Experts, ModelShape, Site

# Which tensor of the layer a linear reads. Only `eager` attention does not keep its output itself.
_INPUT_OF = {"q_proj": "norm1", "k_proj": "norm1", "v_proj": "norm1", "o_proj": "attention"}
_INPUT_OF |= {"gate_proj": "norm2", "up_proj": "norm2", "down_proj": "product"}
INT64 = 8
_MLP = ("gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Batch:
    """One micro-batch on one GPU.

    Attributes:
        samples: B.
        length: T, the longest sample, image tokens included; every sample is padded to it.
        images: images of all samples together.
        padded: whether any sample is shorter, so that there is a mask.
        supervised: tokens that head and loss are computed of, some at a time; None: of all tokens, at once.
    """

    samples: int
    length: int
    images: int
    padded: bool = True
    supervised: int | None = None

    @property
    def tokens(self) -> int:
        """N = B T, padding included."""
        return self.samples * self.length


def layer_bytes(shape: ModelShape, index: int, batch: Batch, precision: Precision, attention: str, fused: bool) -> int:
    """Kept by one decoder layer.

    Args:
        index: which layer.
        attention: `eager` keeps every probability; `sdpa` keeps a widened mask; `flash_attention_2` neither.
        fused: whether its MLP runs as one function of autograd (see `_is_one_function`).
    """
    tokens, size, sites = batch.tokens, precision.compute, shape.layer_sites[index]
    norms = 2 * tokens * (shape.hidden + 1) * FLOAT32
    if fused:
        mlp = tokens * (shape.hidden + 2 * shape.intermediate) * size
        mlp += sum(_hidden_bytes(shape.experts, batch, size) for site in sites if site.name in _MLP)
        sites = tuple(site for site in sites if site.name not in _MLP)
    else:
        mlp = 3 * tokens * shape.intermediate * precision.stream
    adapters = 0
    if shape.experts is not None:
        by_path = _fused_sites_bytes if shape.experts.fused else _plain_sites_bytes
        adapters = by_path(shape.experts, sites, batch, precision, attention)
    return norms + _attention_bytes(shape, batch, size, attention) + mlp + adapters


def _is_one_function(shape: ModelShape, index: int, precision: Precision) -> bool:
    """Whether a layer's gated MLP runs as one function; with dropout or quantized weights it cannot."""
    experts = shape.experts
    if experts is None or not shape.gated_mlps[index]:
        return False
    return experts.fused and not experts.dropout and not precision.quantized


def _hidden_bytes(experts: Experts | None, batch: Batch, size: int) -> int:
    """The rank-wide products of one site."""
    return 0 if experts is None else batch.tokens * experts.active * experts.rank * size


def _fused_sites_bytes(
    experts: Experts, sites: tuple[Site, ...], batch: Batch, precision: Precision, attention: str
) -> int:
    """Sites that run as one function each: their inputs in the dtype of the linear's output, and the hidden states."""
    # Norms beside float32 weights give float32, of which every site makes a copy of its own.
    copies = precision.autocast and not precision.quantized and precision.weights > precision.compute
    hidden = 0
    inputs: dict[str, int] = {}
    for site in sites:
        read = _INPUT_OF.get(site.name, site.name)
        size = precision.compute if read == "attention" else precision.stream
        hidden += _hidden_bytes(experts, batch, size)
        if experts.dropout:
            inputs[site.name] = site.in_features * (size + 1)
        elif copies and read.startswith("norm"):
            inputs[site.name] = site.in_features * size
        elif read != "attention" or attention == "eager":
            inputs[read] = site.in_features * size
    return batch.tokens * sum(inputs.values()) + hidden


def _plain_sites_bytes(
    experts: Experts, sites: tuple[Site, ...], batch: Batch, precision: Precision, attention: str
) -> int:
    """Sites on the plain path: their inputs, where an expert reads them as they are, and what each of them keeps."""
    shared = {_INPUT_OF.get(site.name, site.name): site.in_features for site in sites}
    if attention != "eager":
        shared.pop("attention", None)
    if precision.autocast or experts.dropout or not _reads_shared(experts, batch):
        shared = {}  # what the experts read instead, casts or copies, is counted as theirs
    inputs = batch.tokens * precision.compute * sum(shared.values())
    return inputs + sum(_plain_site_bytes(experts, site, batch, precision) for site in sites)


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
    return experts.routed and not experts.by_token and batch.samples * experts.top_k > 1


def _reads_shared(experts: Experts, batch: Batch) -> bool:
    """Whether any expert reads a site's input itself: the universal one, or all where nothing is moved."""
    return experts.universal or not _moves(experts, batch)


def _plain_site_bytes(experts: Experts, site: Site, batch: Batch, precision: Precision) -> int:
    size, rows = precision.compute, batch.tokens * experts.active
    middle = rows * experts.rank * size * (2 if experts.routed else 1)
    if experts.by_token:
        # Probabilities and weights of a token's experts, its choice, and all B's side by side.
        middle += batch.tokens * (2 * experts.slots * FLOAT32 + experts.top_k * INT64)
        middle += 0 if precision.autocast else experts.slots * experts.rank * site.out_features * size
    if precision.autocast:
        inputs = (batch.tokens if experts.by_token else rows) * site.in_features
    else:
        inputs = batch.tokens * experts.top_k * site.in_features if _moves(experts, batch) else 0
    dropped = 0
    if experts.dropout:  # its mask, and its output where an expert reads that itself
        read = not precision.autocast and _reads_shared(experts, batch)
        dropped = batch.tokens * site.in_features * (1 + (size if read else 0))
    casts = 0
    if precision.autocast:
        used = experts.slots
        if not experts.by_token:
            used = min(used, experts.top_k * batch.samples + int(experts.universal))
        casts = used * experts.rank * (site.in_features + site.out_features) * size
    return middle + inputs * size + dropped + casts


@dataclass(frozen=True)
class Activations:
    """Bytes on one GPU while a micro-batch goes through.

    Attributes:
        kept: saved for backward, the loss left out.
        loss: needed by head and loss, forward and backward, besides `kept`.
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
    shape: ModelShape,
    batch: Batch,
    precision: Precision,
    *,
    checkpointing: bool,
    attention: str = "sdpa",
    device: str = "cuda",
) -> Activations:
    """What one micro-batch needs, with every decoder layer checkpointed or none.

    Args:
        device: the kind, `cuda` or `cpu`.
    """
    tokens, size = batch.tokens, precision.compute
    fused = [_is_one_function(shape, index, precision) for index in range(shape.layers)]
    layers = [layer_bytes(shape, index, batch, precision, attention, one) for index, one in enumerate(fused)]
    casts = 0
    if precision.weights > precision.compute and not precision.quantized:  # frozen weights are cast as well, and kept
        casts = size * shape.layer_linear
    if checkpointing:
        # The embeddings have the weights' dtype; what a layer adds to them may be wider, or narrower.
        later = max(precision.weights, precision.stream)
        kept = tokens * shape.hidden * (precision.weights + (shape.layers - 1) * later)
        recomputed = max(layers) + casts // shape.layers
    else:
        kept = sum(layers) + casts
        recomputed = 0
    kept += tokens * (shape.hidden + 1) * FLOAT32  # the last norm
    kept += batch.images * shape.connector.kept * size
    # The function frees its product before it makes the gradients of both factors.
    wide = 3 if all(fused) else 4
    working = wide * tokens * shape.intermediate * precision.stream + 2 * tokens * shape.hidden * FLOAT32
    if precision.quantized:
        working += shape.hidden * shape.intermediate * size  # the largest linear, dequantized
    if precision.bits == 8:
        kept += shape.layers * _inputs_of_linears(shape, tokens, precision)
    return Activations(kept=kept, loss=_loss_bytes(shape, batch, precision, device), layer=recomputed + working)


def _loss_bytes(shape: ModelShape, batch: Batch, precision: Precision, device: str) -> int:
    """Head and loss. Of all tokens: the log-softmax in float32, its gradient, and the gradient of the logits.

    Of supervised tokens, some at a time: in the forward their hidden states and the gradients of these, and for the
    tokens at hand logits and log-softmax; in the backward the gradients, scaled in float32, and those of all tokens.
    """
    size = precision.compute
    if batch.supervised is None:
        return 3 * batch.tokens * shape.vocab * FLOAT32
    states = batch.supervised * shape.hidden
    at_a_time = min(tokens_at_a_time(device, shape.vocab), batch.supervised)
    head = shape.vocab * shape.hidden * size if precision.weights > size else 0  # cast
    forward = 2 * states * size + at_a_time * shape.vocab * (size + FLOAT32) + head
    backward = states * (2 * size + FLOAT32) + batch.tokens * shape.hidden * size
    return max(forward, backward)
