"""Models that have a processor in transformers: LLaVA-NeXT, Qwen-VL, InternVL and more, by a table of facts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from llava_mocle.data.conversation import Template
from llava_mocle.errors import CheckpointError
from llava_mocle.families.family import Family, Prefix
from llava_mocle.families.parts import Parts
from llava_mocle.families.processor_encoder import ProcessorEncoder
from llava_mocle.families.processor_template import processor_template
from llava_mocle.families.processor_types import MODEL_KINDS, ModelKind
from llava_mocle.families.processors import open_processor
from llava_mocle.families.usual_images import USUAL_SIZE

# The processor enlarges it to the smallest image that it makes.
_BLANK = (64, 64)


class ProcessorFamily(Family):
    """Any of `MODEL_KINDS`. Its samples are what its processor makes of them."""

    name = "a model with a processor"
    derived_weights = (".rotary_emb.inv_freq", ".embeddings.position_ids")
    usual_template = "chat"
    template_names = ("chat",)
    usual_length = 8192

    def __init__(self, config: Any, processor: Any) -> None:
        super().__init__(config, processor.tokenizer, processor.image_processor)
        self.processor = processor
        self.kind = kind_of(config)

    @classmethod
    def name_of(cls, config: Any) -> str:
        return kind_of(config).name

    @classmethod
    def model_class(cls, config: Any) -> Any:
        return getattr(transformers, kind_of(config).model_class)

    @classmethod
    def parts(cls, config: Any) -> Parts:
        return kind_of(config).parts_of(config)

    @classmethod
    def typical_image(cls, config: Any) -> dict[str, Tensor]:
        """Of a grey one of `USUAL_SIZE`, prepared as published models of this kind prepare theirs."""
        image_processor = kind_of(config).image_processor(config)
        made = image_processor(images=[Image.new("RGB", USUAL_SIZE, "grey")], return_tensors="pt")
        taken = inspect.signature(cls.model_class(config).get_image_features).parameters
        return {name: value for name, value in made.items() if name in taken}

    @classmethod
    def open(cls, config: Any, folder: Path, tokenizer: Any, image_processor: Any) -> ProcessorFamily:
        kind = kind_of(config)
        processor = open_processor(kind.processor_class, folder, kind.defaults(config), tokenizer, image_processor)
        found = processor.image_token_ids[0]
        if found != config.image_token_id:
            raise CheckpointError(
                f"{folder}: the processor's image token has the id {found}, but the model's image_token_id is "
                f"{config.image_token_id}; tokenizer or processor are of another model."
            )
        return cls(config, processor)

    def save(self, folder: Path) -> None:
        self.processor.save_pretrained(folder)

    def template(self, name: str, system: str | None = None) -> Template:
        return processor_template(self.processor, name, system, chats=self.kind.chats, model=self.kind.name)

    def encoder(
        self, template: Template | str, *, aspect_ratio: str | None = None, max_length: int | None = None
    ) -> ProcessorEncoder:
        return ProcessorEncoder(
            self.processor,
            self.kind,
            self.template(template) if isinstance(template, str) else template,
            max_length=max_length,
            aspect_ratio=aspect_ratio or self.usual_aspect_ratio,
        )

    @cached_property
    def _blank(self) -> dict[str, Tensor]:
        """The tensors of a small black image."""
        encoder = self.encoder("chat")
        return encoder.images([Image.new("RGB", _BLANK)])

    def run_connector_in_every_step(self, model: Any) -> RemovableHandle | None:
        """Under ZeRO-3 all ranks must gather the same module's weights at the same time, so the blank image runs where
        an image would: behind the embedding. The model still gets the ids, as some compute positions from them.
        """
        if not self.kind.takes_text_only:
            return None
        inner = model.model
        taken = inspect.signature(inner.get_image_features).parameters
        without_image = False

        # On the inner model: its hook runs inside the autocast that accelerate puts around the outer forward.
        def look(module: Any, args: tuple, kwargs: dict[str, Any]) -> None:
            nonlocal without_image
            without_image = kwargs.get("pixel_values") is None and kwargs.get("past_key_values") is None

        def add_blank(module: Any, args: tuple, output: Tensor) -> Tensor | None:
            nonlocal without_image
            if not without_image:
                return None
            without_image = False
            blank = {
                name: value.to(output.device, output.dtype if value.is_floating_point() else None)
                for name, value in self._blank.items()
                if name in taken
            }
            features = inner.get_image_features(**blank)
            made = [*features.pooler_output]
            for layer in getattr(features, "deepstack_features", None) or ():
                made += layer
            mean = torch.cat([one.flatten(0, -2) for one in made]).float().mean()
            return output + 0.0 * mean.to(output.dtype)

        return _Both(
            inner.register_forward_pre_hook(look, with_kwargs=True),
            inner.get_input_embeddings().register_forward_hook(add_blank),
        )

    def prefix(
        self, model: Any, input_ids: Tensor, inputs: Mapping[str, Tensor], routing: Mapping[str, Tensor]
    ) -> Prefix:
        for module in model.modules():
            # Qwen's models keep how far an image has moved the positions. It is of the last image that they saw.
            if getattr(module, "rope_deltas", None) is not None:
                module.rope_deltas = None
        cut = {
            name: value[:, : len(input_ids)] if name == self.kind.token_types else value
            for name, value in inputs.items()
        }
        return super().prefix(model, input_ids, cut, routing)


class _Both(RemovableHandle):
    """Two hooks that are taken off together."""

    def __init__(self, first: RemovableHandle, second: RemovableHandle) -> None:
        self.handles = (first, second)

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def kind_of(config: Any) -> ModelKind:
    """What is known of a model of this configuration."""
    return MODEL_KINDS[config.model_type]
