"""Batches without an image: the projector still takes part in every step."""

from typing import Any

import torch
from transformers import LlavaForConditionalGeneration


def run_projector_in_every_step(model: LlavaForConditionalGeneration) -> torch.utils.hooks.RemovableHandle:
    """Make a forward without images (and without a cache) run a blank image through tower and projector, times zero.

    Otherwise a text-only batch has no gradient for the projector. In stage 1 there would be nothing to differentiate;
    with several processes, the ranks would disagree about which gradients to reduce. Under ZeRO-3 all ranks must gather
    the same module's weights at the same time, so the blank image runs where an image would: between the embedding and
    the first layer. Loss and gradients do not change.

    Returns:
        A handle that takes the hook off again.
    """
    size = model.config.vision_config.image_size

    # On the inner model: its hook runs inside the autocast that accelerate puts around the outer forward.
    def add_blank(module: Any, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        input_ids = kwargs.get("input_ids")
        if kwargs.get("pixel_values") is not None or kwargs.get("past_key_values") is not None or input_ids is None:
            return args, kwargs
        embeds = module.get_input_embeddings()(input_ids)
        blank = torch.zeros(1, 3, size, size, device=embeds.device, dtype=module.vision_tower.dtype)
        features = torch.cat(list(module.get_image_features(pixel_values=blank).pooler_output))
        embeds = embeds + 0.0 * features.float().mean().to(embeds.dtype)
        return args, kwargs | {"input_ids": None, "inputs_embeds": embeds}

    return model.model.register_forward_pre_hook(add_blank, with_kwargs=True)
