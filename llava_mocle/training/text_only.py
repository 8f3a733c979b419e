"""Batches without an image: the projector still takes part in every step."""

from typing import Any

import torch
from transformers import LlavaForConditionalGeneration


def run_projector_in_every_step(model: LlavaForConditionalGeneration) -> torch.utils.hooks.RemovableHandle:
    """Make a forward that has labels but no images run a blank image through tower and projector, times zero.

    Otherwise a text-only batch has no gradient for the projector: in stage 1 nothing to differentiate at all, and with
    several processes ranks that disagree about what to reduce. Loss and gradients stay what they are.
    """
    size = model.config.vision_config.image_size

    def add_nothing(module: Any, args: tuple, kwargs: dict[str, Any], output: Any) -> Any:
        if kwargs.get("pixel_values") is not None or output.loss is None:
            return output
        blank = torch.zeros(1, 3, size, size, device=output.loss.device, dtype=module.dtype)
        features = module.get_image_features(pixel_values=blank).pooler_output
        output.loss = output.loss + 0.0 * torch.cat(list(features)).float().sum()
        return output

    return model.register_forward_hook(add_nothing, with_kwargs=True)
