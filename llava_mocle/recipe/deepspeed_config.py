"""What a recipe's `deepspeed` key holds: the path of a JSON file, JSON text, or the configuration itself."""

import json
from pathlib import Path
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import looked_for, why_missing


def zero_stage(config: Any) -> int:
    """The ZeRO stage of what the key holds; 0 where there is none.

    Raises:
        ConfigError: as `read_deepspeed`.
    """
    return int((read_deepspeed(config).get("zero_optimization") or {}).get("stage") or 0)


def read_deepspeed(config: Any) -> dict[str, Any]:
    """The configuration; empty where there is none.

    Raises:
        ConfigError: no such file, or no JSON object in it.
    """
    if not config:
        return {}
    source = config if isinstance(config, str) else "a value"
    if isinstance(config, str):
        is_text = config.lstrip().startswith("{")
        if not is_text and (trouble := why_missing(config)) is not None:
            raise ConfigError(
                f"deepspeed: {config}: {trouble}{looked_for(config)}; `llava-mocle recipes` lists those that ship"
            )
        try:
            config = json.loads(config if is_text else Path(config).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            source = "its text" if is_text else source
            raise ConfigError(f"deepspeed: {source} cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"deepspeed: {source} holds a {type(config).__name__}, expected a JSON object")
    return config
