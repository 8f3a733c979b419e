"""Routing during `generate`: computed once per call, kept for every decoded token, repeated for beams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from llava_mocle.adapter.collapsed import CollapsedRouting
from llava_mocle.adapter.routing import Routing
from llava_mocle.errors import RoutingError

AnyRouting: TypeAlias = Routing | CollapsedRouting

_BATCH_INPUTS = (
    "input_ids", "inputs", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "input_features",
    "qformer_input_ids",
)  # fmt: skip


def batch_size(args: tuple, kwargs: dict[str, Any]) -> int | None:
    """The number of samples in a call of the model: the first dimension of its inputs. None if no input tells it."""
    candidates = [kwargs.get(name) for name in _BATCH_INPUTS] + list(args)
    return next((c.shape[0] for c in candidates if isinstance(c, Tensor) and c.ndim > 1), None)


def expansion(kwargs: Mapping[str, Any], default_config: Any) -> int:
    """How often `generate` repeats every sample: max(num_beams, num_return_sequences), as in transformers.

    Args:
        kwargs: the keywords of the call. They go before its `generation_config`, which goes before the default.
        default_config: the `generation_config` of the module that generates, or None.
    """

    def value(name: str) -> int:
        given = getattr(kwargs.get("generation_config"), name, None)
        return kwargs.get(name) or given or getattr(default_config, name, None) or 1

    return max(value("num_beams"), value("num_return_sequences"))


class Generation:
    """The routing of one `generate` call.

    Args:
        routings: adapter name -> routing of the samples as the caller passed them.
        options: the keywords of the call.
        collapsed: in place of `routings` in forwards without gradients, for the adapters that are named here.
    """

    def __init__(
        self,
        routings: dict[str, Routing],
        options: Mapping[str, Any],
        collapsed: Mapping[str, CollapsedRouting] = {},
    ) -> None:
        self.num_samples = next(iter(routings.values())).num_samples
        self.options = options
        self._by_factor: dict[tuple[int, bool], dict[str, AnyRouting]]
        self._by_factor = {(1, True): {**routings}, (1, False): {**routings, **collapsed}}

    def routings(self, rows: int | None, default_config: Any) -> dict[str, AnyRouting]:
        """The routing of a forward of `rows` rows: one row a sample, or `expansion` rows in a row for each sample.

        Args:
            default_config: the `generation_config` of the module whose forward it is. `generate` calls the forward of
                its own module, so this is what decides when a model leaves generating to an inner language model.

        Raises:
            RoutingError: any other number of rows.
        """
        repeats = expansion(self.options, default_config)
        factors = {self.num_samples: 1, self.num_samples * repeats: repeats}
        if rows is not None and rows not in factors:
            raise RoutingError(
                f"generate runs a batch of {rows} rows, but {self.num_samples} routing ids were passed and every "
                f"sample is repeated {repeats} times (num_beams, num_return_sequences); "
                "pass exactly one id per sample."
            )
        factor, with_gradients = 1 if rows is None else factors[rows], torch.is_grad_enabled()
        key = factor, with_gradients
        if key not in self._by_factor:
            once = self._by_factor[1, with_gradients]
            self._by_factor[key] = {name: routing.repeat(factor) for name, routing in once.items()}
        return self._by_factor[key]
