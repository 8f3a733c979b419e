"""Batches without an image: the projector still takes part in every step."""

from typing import Any

import torch
from transformers import LlavaForConditionalGeneration


def run_projector_in_every_step(model: LlavaForConditionalGeneration) -> torch.utils.hooks.RemovableHandle:
    """Make a forward without images (and without a cache) run a blank image through tower and projector, times zero.

    Otherwise a text-only batch has no gradient for the projector: in stage 1 nothing to differentiate at all, and with
    several processes ranks that disagree about what to reduce. Loss and gradients stay what they are.
    """
    size = model.config.vision_config.image_size

    # On the inner model: its hook runs inside the autocast that accelerate puts around the outer forward.
    def add_nothing(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("pixel_values") is not None or output.past_key_values is not None:
            return output
        hidden = output.last_hidden_state
        blank = torch.zeros(1, 3, size, size, device=hidden.device, dtype=module.vision_tower.dtype)
        features = torch.cat(list(module.get_image_features(pixel_values=blank).pooler_output))
        output.last_hidden_state = hidden + 0.0 * features.sum().to(hidden.dtype)
        return output

    return model.model.register_forward_hook(add_nothing, with_kwargs=True)
