"""The gates of a saved adapter, read from its folder alone: no base model is loaded."""

from pathlib import Path
from typing import cast

import torch
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llava_mocle.adapter.config import MocleConfig
from llava_mocle.adapter.gating import gate_probabilities
from llava_mocle.adapter.router import build_router
from llava_mocle.errors import CheckpointError, ConfigError

_PREFIX = "base_model.mocle_router."


@torch.no_grad()
def saved_gates(folder: Path, config: MocleConfig) -> Tensor:
    """(K, S, E): every cluster's (or dataset's) gate probabilities without noise, as `MocleModel.clean_gates` has them.

    Args:
        folder: a saved adapter.
        config: what its adapter_config.json says.

    Raises:
        ConfigError: the router gives no id gates of its own.
        CheckpointError: the weights are missing, damaged, or do not fit the configuration.
    """
    if config.router == "none":
        raise ConfigError(f"{folder}: is a single LoRA (router none): it has one expert, and no gates")
    if not config.has_gates_of_ids:
        raise ConfigError(
            f"{folder}: its router is {config.router!r}, which looks at no cluster: no cluster has gates of its own"
        )
    path, sites = folder / SAFETENSORS_WEIGHTS_NAME, config.sites or []
    shape = (cast(int, config.num_groups), cast(int, config.cluster_dim))
    router = build_router(config, len(sites), torch.zeros(shape))
    try:
        with safe_open(str(path), framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(_PREFIX)]  # noqa: SIM118 (a file, not a dict)
            weights = {name.removeprefix(_PREFIX): file.get_tensor(name).float() for name in names}
        router.load_state_dict(weights)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(f"{path}: its gates cannot be read ({' '.join(str(error).split())})") from error
    logits = router(torch.arange(cast(int, config.num_clusters)), noisy=False).clean_logits
    return gate_probabilities(logits, config.temperature, config.gate_mode).transpose(0, 1)
