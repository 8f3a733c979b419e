"""What one image costs in vision tower and connector: counted while the model's own code runs, best on the meta device.

No formula would do. Towers cut images into tiles, windows or patches, and connectors merge them, each in its own way.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from llava_mocle.families.family import Family
from llava_mocle.families.parts import Parts, connector_parameters
from llava_mocle.planning.shapes import Connector, Tower


def measure_image(base: Any, family: type[Family], parts: Parts) -> tuple[Tower, Connector]:
    """What the family's image of usual size costs in this model.

    Args:
        base: the model, without PEFT around it; an adapter may stand in it.
    """
    names = connector_parameters(parts, base)
    trained = [value for name, value in base.named_parameters() if name in names and value.requires_grad]
    inside = [
        module
        for name, module in base.named_modules()
        if f".{name}".endswith(tuple(f".{part}" for part in parts.connector))
    ]
    inputs = _inputs(base, family.typical_image(base.config))
    # The CPU's fused attention is not counted; taken apart into products it is, on every device.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), _ShapesOnly():
        meter = _Meter(counter, base)
        with meter.watch(inside):
            features = base.get_image_features(**inputs)
        forward = meter.flops()
        if trained:
            _differentiate(features, trained)
        backward = meter.flops() - forward
    tower = forward - meter.inside
    attention = sum(count for name, count in tower.items() if "bmm" in name or "attention" in name)
    linear = sum(count for name, count in tower.items() if name.endswith(("addmm", ".mm")))
    made = [value for value in tree_leaves(features.pooler_output) if isinstance(value, Tensor)]
    return (
        Tower(
            image_tokens=sum(value[..., 0].numel() for value in made),
            linear_flops=linear,
            attention_flops=attention,
            other_flops=tower.total() - linear - attention,
        ),
        Connector(forward_flops=meter.inside.total(), backward_flops=backward.total(), kept=meter.kept),
    )


def _inputs(base: nn.Module, pixels: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """On the model's device; for the meta device with their values."""
    weight = next(base.parameters())
    device = torch.device("cpu") if weight.is_meta else weight.device
    return {
        name: value.to(device, weight.dtype if value.is_floating_point() else None) for name, value in pixels.items()
    }


def _differentiate(features: Any, trained: list[nn.Parameter]) -> None:
    """The backward of the connector's parameters, down to its first linears and no further."""
    outputs = [value for value in tree_leaves(features) if isinstance(value, Tensor) and value.requires_grad]
    torch.autograd.grad(outputs, trained, [torch.ones_like(value) for value in outputs], allow_unused=True)


class _Meter:
    """Tells what runs inside the connector from the rest.

    Attributes:
        inside: operations of the forward, by ATen operator.
        kept: values that autograd keeps for backward, in numbers of weights that take as many bytes.
    """

    def __init__(self, counter: FlopCounterMode, base: nn.Module) -> None:
        self.counter = counter
        self.inside: Counter[str] = Counter()
        self._size = next(base.parameters()).element_size()
        self._weights = {_storage(value) for value in base.parameters()}
        # The tensors themselves, so that no storage is freed and its address used again.
        self._saved: dict[int, Tensor] = {}
        self._starts: list[Counter[str]] = []

    @property
    def kept(self) -> int:
        return sum(value.nbytes for value in self._saved.values()) // self._size

    def flops(self) -> Counter[str]:
        """Everything so far."""
        return Counter({str(name): count for name, count in self.counter.get_flop_counts()["Global"].items()})

    @contextmanager
    def watch(self, modules: list[nn.Module]) -> Iterator[None]:
        handles = [module.register_forward_pre_hook(self._enter) for module in modules]
        handles += [module.register_forward_hook(self._leave) for module in modules]
        try:
            with torch.autograd.graph.saved_tensors_hooks(self._keep, lambda value: value):
                yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, *_: Any) -> None:
        self._starts.append(self.flops())

    def _leave(self, *_: Any) -> None:
        self.inside += self.flops() - self._starts.pop()

    def _keep(self, value: Tensor) -> Tensor:
        if self._starts and _storage(value) not in self._weights:
            self._saved.setdefault(_storage(value), value.detach())
        return value


def _storage(value: Tensor) -> int:
    return value.untyped_storage()._cdata


class _ShapesOnly(TorchDispatchMode):
    """Runs a model on the meta device with inputs that have values.

    What meets a weight becomes a shape without values. Whole numbers and masks that are made on the meta device, or
    sent there, stay on the CPU, because models read from them how large an image is.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        if any(value.is_meta for value in tensors):
            args, kwargs = tree_map_only(Tensor, lambda value: value.to("meta"), (args, kwargs))
        elif kwargs.get("device") == torch.device("meta"):
            dtype = kwargs.get("dtype") or (tensors[0].dtype if tensors else None)
            if dtype is not None and not dtype.is_floating_point:
                kwargs["device"] = torch.device("cpu")
        return func(*args, **kwargs)
