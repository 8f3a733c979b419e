"""The weight names of the original LLaVA-1.5 code <-> those of transformers' `LlavaForConditionalGeneration`.

Names only: no tensor is copied or changed, and `from_hf(to_hf(state)) == state` key for key. Published
LLaVA-HF folders use yet another layout (`language_model.model.layers...`), which transformers maps itself at load.
"""

from collections.abc import Mapping
from typing import TypeVar

from llava_mocle.errors import CheckpointError

T = TypeVar("T")

# (prefix in the original code, prefix in transformers); the first that fits wins, either way round.
_PREFIXES = (
    ("lm_head.", "lm_head."),
    ("model.mm_projector.0.", "model.multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "model.multi_modal_projector.linear_2."),
    ("model.vision_tower.vision_tower.vision_model.", "model.vision_tower."),
    ("model.embed_tokens.", "model.language_model.embed_tokens."),
    ("model.layers.", "model.language_model.layers."),
    ("model.norm.", "model.language_model.norm."),
)

# Old checkpoints also store these buffers, which every model computes anew: they hold no learnt value.
DERIVED_SUFFIXES = (".rotary_emb.inv_freq", ".embeddings.position_ids")


def to_hf(state_dict: Mapping[str, T]) -> dict[str, T]:
    """Original LLaVA-1.5 names -> transformers' names.

    Raises:
        CheckpointError: a name that the original code does not use, or two names that become one.
    """
    return _rename(state_dict, _PREFIXES, "original LLaVA-1.5")


def from_hf(state_dict: Mapping[str, T]) -> dict[str, T]:
    """transformers' names -> original LLaVA-1.5 names, the exact inverse of `to_hf`.

    Raises:
        CheckpointError: a name that `LlavaForConditionalGeneration` does not use.
    """
    return _rename(state_dict, tuple((hf, original) for original, hf in _PREFIXES), "transformers LLaVA")


def drop_derived(state_dict: Mapping[str, T]) -> dict[str, T]:
    """The state dict without the position buffers that old checkpoints carry and no model needs."""
    return {name: value for name, value in state_dict.items() if not name.endswith(DERIVED_SUFFIXES)}


def _rename(state_dict: Mapping[str, T], prefixes: tuple[tuple[str, str], ...], layout: str) -> dict[str, T]:
    renamed: dict[str, T] = {}
    unknown = []
    for name, value in state_dict.items():
        for old, new in prefixes:
            if name.startswith(old):
                renamed[new + name.removeprefix(old)] = value
                break
        else:
            unknown.append(name)
    if unknown:
        shown = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise CheckpointError(
            f"{len(unknown)} weight name(s) do not belong to the {layout} layout: {shown}. Expected names that start "
            f"with {', '.join(old for old, _ in prefixes)}."
        )
    assert len(renamed) == len(state_dict), "two names became one"
    return renamed
