"""The names of the prompt templates; free of torch, as the recipe's keys list them."""

from llava_mocle.errors import ConfigError

TEMPLATE_NAMES = ("vicuna_v1", "plain", "llama_2", "mistral", "instructblip", "chat")
# LLaVA's `--version v1`.
ALIASES = {"v1": "vicuna_v1"}


def template_name(name: str) -> str:
    """The name in `TEMPLATE_NAMES` of a template, which LLaVA may call otherwise.

    Raises:
        ConfigError: there is no such template.
    """
    known = ALIASES.get(name, name)
    if known not in TEMPLATE_NAMES:
        raise ConfigError(f"unknown template {name!r}; expected one of {', '.join(TEMPLATE_NAMES)}")
    return known
