"""A PEFT tuner that also trains bare parameters of the base model: in place, saved and loaded with the adapter."""

from __future__ import annotations

from typing import cast

from peft import PeftModel
from peft.config import PeftConfig
from peft.tuners.tuners_utils import BaseTuner
from torch import Tensor, nn

from llava_mocle.adapter.bare_parameters import find_parameters
from llava_mocle.adapter.config import MocleConfig
from llava_mocle.errors import CheckpointError, ConfigError

# Before the base model's names in the state of a PeftModel.
PEFT_MODEL_PREFIX = "base_model.model."
# How the names of the adapter's own modules start.
PREFIX = "mocle_"


def is_saved(name: str, parameter: nn.Parameter) -> bool:
    """Whether a file of the adapter holds this parameter: it is trained, or the adapter's own.

    A cluster embedding that is not trained (`train_cluster_embedding=False`) is the adapter's own.
    """
    return parameter.requires_grad or f".{PREFIX}" in name


class InPlaceTuner(BaseTuner):
    """The part of a tuner that looks after `parameters_to_save`.

    PEFT loads what it finds in an adapter's file under a name of the base model, whatever the adapter's type, so
    a plain LoRA that `collapse` wrote carries these parameters too.
    """

    def _pre_injection_hook(self, model: nn.Module, config: PeftConfig, adapter_name: str) -> None:
        self._parameter_names: dict[str, list[str]] = {}

    def _check_alone(self, config: MocleConfig) -> None:
        """Refuse a second adapter where one of the two trains parameters in place.

        Raises:
            ConfigError: naming the parameters and the other adapter.
        """
        for name, other in self.peft_config.items():
            in_place = config.parameters_to_save or cast(MocleConfig, other).parameters_to_save
            if other is not config and in_place:
                raise ConfigError(
                    f"parameters_to_save={in_place} is trained in place, so it would change the model under every "
                    f"adapter, and there is adapter {name!r} already: put each on a base model of its own."
                )

    def _train_in_place(self, adapter_name: str, trained: bool) -> None:
        for name in self._parameter_names[adapter_name]:
            self.model.get_parameter(name).requires_grad_(trained)

    @classmethod
    def _get_adapter_state_dict(
        cls,
        model: nn.Module,
        config: PeftConfig,
        adapter_name: str,
        state_dict: dict[str, Tensor],
        unwanted_adapter_names: list[str],
    ) -> dict[str, Tensor]:
        """PEFT's choice of what is saved, and the parameters trained in place."""
        chosen = super()._get_adapter_state_dict(model, config, adapter_name, state_dict, unwanted_adapter_names)
        return chosen | {key: state_dict[key] for key in _in_place(model, config) if key in state_dict}

    @classmethod
    def _remap_adapter_state_dict_for_load(
        cls, model: nn.Module, config: PeftConfig, adapter_name: str, state_dict: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """PEFT's translation of the keys. Parameters trained in place keep the device and dtype that they have.

        Raises:
            CheckpointError: the weights lack one of `parameters_to_save`.
        """
        weights = super()._remap_adapter_state_dict_for_load(model, config, adapter_name, state_dict)
        for key, parameter in _in_place(model, config).items():
            if key not in weights:
                raise CheckpointError(
                    f"adapter {adapter_name!r}: its configuration lists {key.removeprefix(PEFT_MODEL_PREFIX)!r} in "
                    "parameters_to_save, but its weights lack it; save the adapter anew."
                )
            if not parameter.is_meta:
                # With low_cpu_mem_usage, PEFT puts the loaded tensor itself in the place of the parameter.
                weights[key] = weights[key].to(device=parameter.device, dtype=parameter.dtype)
        return weights


def _in_place(model: nn.Module, config: PeftConfig) -> dict[str, nn.Parameter]:
    """The parameters trained in place, by their keys in the state of `model`: a PeftModel, or what it wraps."""
    wrapped = isinstance(model, PeftModel)
    found = find_parameters(model.get_base_model() if wrapped else model, cast(MocleConfig, config))
    return {PEFT_MODEL_PREFIX * wrapped + name: parameter for name, parameter in found.items()}
