"""Tensors that claim to be on a device and compute on the CPU, to count what a program reads back to the host."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


class DeviceTensor(Tensor):
    """Says that it is on "xla:0", a kind of device for which torch looks for no driver.

    Every operation that would make the CPU wait for a real device is noted in `reads`.
    """

    reads: list[str] = []  # noqa: RUF012
    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> DeviceTensor:
        return Tensor._make_wrapper_subclass(cls, inner.shape, inner.stride(), dtype=inner.dtype, device="xla:0")

    def __init__(self, inner: Tensor) -> None:
        self.inner = inner

    def tolist(self) -> list[Any]:
        # torch has no `tolist` for subclasses; on a GPU it is a copy to the host.
        return self.cpu().tolist()

    def __getitem__(self, index: Any) -> Tensor:
        # Python's indexing asks for a driver of the device before it comes to `__torch_dispatch__`.
        assert not any(isinstance(part, Tensor) for part in (index if isinstance(index, tuple) else (index,)))
        return DeviceTensor(self.inner[index])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        device = kwargs.get("device")
        to_host = device is not None and torch.device(device).type == "cpu"
        reads = to_host or func in WAITING
        if reads:
            cls.reads.append(str(func))
        elif device is not None:
            kwargs["device"] = "cpu"
        args, kwargs = tree_map(lambda value: value.inner if isinstance(value, cls) else value, (args, kwargs))
        result = func(*args, **kwargs)
        return result if to_host else tree_map(lambda value: cls(value) if isinstance(value, Tensor) else value, result)


_aten = torch.ops.aten
# What needs values of a tensor to go on: numbers, and shapes that depend on values.
WAITING = {
    _aten._local_scalar_dense.default,
    _aten.nonzero.default,
    _aten.bincount.default,
    _aten._unique2.default,
    _aten.masked_select.default,
    _aten.repeat_interleave.Tensor,
    _aten.equal.default,
}


def move(module: nn.Module) -> None:
    """Replace the parameters of `module` by such tensors, without gradients."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            setattr(part, name, nn.Parameter(DeviceTensor(parameter.detach()), requires_grad=False))
