"""LLaVA: a vision tower, a projector of two linears, a language model. An image takes a fixed number of places."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import LlavaForConditionalGeneration

from llava_mocle.clustering.instruction import IMAGE_TOKEN
from llava_mocle.data.conversation import Template
from llava_mocle.data.dataset import LlavaEncoder
from llava_mocle.errors import CheckpointError
from llava_mocle.families.family import Family
from llava_mocle.families.image_tokens import check_image_size, image_tokens_per_image
from llava_mocle.families.parts import Parts


class LlavaFamily(Family):
    """`LlavaForConditionalGeneration`. Its ids, labels and weights are those of LLaVA-1.5."""

    name = "LLaVA"
    derived_weights = (".rotary_emb.inv_freq", ".embeddings.position_ids")
    has_stage_1 = True
    usual_aspect_ratio = "pad"

    @classmethod
    def model_class(cls, config: Any) -> Any:
        return LlavaForConditionalGeneration

    @classmethod
    def parts(cls, config: Any) -> Parts:
        return Parts("language_model", "vision_tower", ("multi_modal_projector",))

    @classmethod
    def typical_image(cls, config: Any) -> dict[str, Tensor]:
        side = config.vision_config.image_size
        return {"pixel_values": torch.zeros(1, 3, side, side)}

    @classmethod
    def open(cls, config: Any, folder: Path, tokenizer: Any, image_processor: Any) -> LlavaFamily:
        found = tokenizer.get_vocab().get(IMAGE_TOKEN)
        if found != config.image_token_id:
            raise CheckpointError(
                f"{folder}: the tokenizer's id of {IMAGE_TOKEN} is {found}, but the model's image_token_index is "
                f"{config.image_token_id}; the tokenizer is of another model."
            )
        check_image_size(image_processor, config.vision_config, folder)
        return cls(config, tokenizer, image_processor)

    @property
    def image_tokens_per_image(self) -> int:
        """How many of it stand for one image."""
        return image_tokens_per_image(self.config)

    def encoder(
        self, template: Template | str, *, aspect_ratio: str | None = None, max_length: int | None = None
    ) -> LlavaEncoder:
        return LlavaEncoder(
            self.tokenizer,
            self.image_processor,
            self.template(template) if isinstance(template, str) else template,
            image_token_id=self.image_token_id,
            image_tokens_per_image=self.image_tokens_per_image,
            max_length=max_length,
            aspect_ratio=aspect_ratio or self.usual_aspect_ratio,
        )

    def run_connector_in_every_step(self, model: Any) -> RemovableHandle:
        """In stage 1 there would be nothing to differentiate without it.

        Under ZeRO-3 all ranks must gather the same module's weights at the same time, so the blank image runs where an
        image would: between the embedding and the first layer. Loss and gradients do not change.
        """
        size = self.config.vision_config.image_size

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
