"""The sizes of a model that memory, operations and traffic are computed from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Site:
    """One adapted linear: its name in the layer (`up_proj`) and its width on both sides."""

    name: str
    in_features: int
    out_features: int


@dataclass(frozen=True)
class Experts:
    """The adapter of every site.

    Attributes:
        rank: r of every expert.
        slots: experts a site holds, the universal one included.
        top_k: task experts that a sample takes; the whole of it for a plain LoRA.
        universal: whether every sample takes the universal expert as well.
        routed: False for a plain LoRA, whose only expert has weight 1.
        dropout: whether there is dropout in front of the experts.
        fused: whether a site's experts are one function of autograd; else the plain path.
        by_token: whether every token chooses for itself. All experts are computed then.
    """

    rank: int
    slots: int
    top_k: int
    universal: bool
    routed: bool
    dropout: bool = False
    fused: bool = True
    by_token: bool = False

    @property
    def active(self) -> int:
        """Experts that are computed for one token at one site."""
        return self.slots if self.by_token else self.top_k + int(self.universal)


@dataclass(frozen=True)
class Tower:
    """The vision tower, frozen.

    Attributes:
        image_tokens: what one image becomes in the language model.
        linear_flops, attention_flops, other_flops: operations of one image's forward.
    """

    image_tokens: int
    linear_flops: int
    attention_flops: int
    other_flops: int


@dataclass(frozen=True)
class Connector:
    """What leads from the tower to the language model: LLaVA's projector, Qwen's merger, InstructBLIP's Q-Former.

    Attributes:
        forward_flops, backward_flops: operations for one image. Where it is not trained there is no backward.
        kept: values of one image that are kept for backward.
    """

    forward_flops: int
    backward_flops: int
    kept: int


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters. Frozen: language model, vision tower, the connector's original. Trained: the others."""

    language_model: int
    vision_tower: int
    frozen_projector: int
    experts: int
    router: int
    projector: int

    @property
    def frozen(self) -> int:
        return self.language_model + self.vision_tower + self.frozen_projector

    @property
    def trainable(self) -> int:
        return self.experts + self.router + self.projector

    @property
    def all(self) -> int:
        return self.frozen + self.trainable


@dataclass(frozen=True)
class ModelShape:
    """A vision-language model with a Llama-like language model, as one recipe trains it.

    Attributes:
        hidden, intermediate, heads, kv_heads, head_dim, vocab: of the language model.
        layer_sites: the adapted linears of each layer; its length is the number of layers.
        gated_mlps: for each layer, whether its MLP is one function of autograd where that can run.
        layer_linear: parameters of all frozen linears in the layers together.
        layer_rows: output features of all frozen linears in the layers together.
        experts: None in stage 1.
        counts: numbers of parameters.
        usual_length: the longest sample in tokens where a recipe says nothing.
        small: parameters in tensors of at most 10 x hidden values, which ZeRO-3 leaves whole on every GPU.
        supervised_head: whether head and loss can be computed of supervised tokens alone.
    """

    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    layer_sites: tuple[tuple[Site, ...], ...]
    gated_mlps: tuple[bool, ...]
    layer_linear: int
    layer_rows: int
    experts: Experts | None
    tower: Tower
    connector: Connector
    counts: Counts
    usual_length: int
    small: int
    supervised_head: bool

    @property
    def layers(self) -> int:
        return len(self.layer_sites)

    @property
    def query_width(self) -> int:
        """Width of the queries of all heads."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of the keys (or values) of all key-value heads."""
        return self.kv_heads * self.head_dim
