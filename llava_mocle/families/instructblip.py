"""InstructBLIP: a vision tower, a Q-Former that reads the image in the light of the question, a language model."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoModelForImageTextToText, AutoTokenizer
from transformers.models.instructblip.modeling_instructblip import BaseModelOutputWithVisionQformerOutputs

from llava_mocle.clustering.instruction import IMAGE_TOKEN
from llava_mocle.data.conversation import Template
from llava_mocle.errors import CheckpointError
from llava_mocle.families.family import Family, Prefix
from llava_mocle.families.image_tokens import check_image_size
from llava_mocle.families.instructblip_encoder import InstructBlipEncoder
from llava_mocle.families.parts import Parts

QFORMER_TOKENIZER = "qformer_tokenizer"
# Tokens of a question that the Q-Former reads, for plans.
_USUAL_QUESTION = 32


class InstructBlipForConditionalGeneration(transformers.InstructBlipForConditionalGeneration):
    """transformers' own, with `query_tokens` in the dtype of all other weights.

    transformers keeps them in float32 in a 16-bit model. That would make float32 the model's `dtype`, and ZeRO-3
    refuses trained parameters of two dtypes.
    """

    _keep_in_fp32_modules = None


class InstructBlipFamily(Family):
    """InstructBLIP on a decoder such as Vicuna. It takes one image, or the frames of one video, and one question."""

    name = "InstructBLIP"
    derived_weights = (".rotary_emb.inv_freq", ".embeddings.position_ids")
    usual_template = "instructblip"

    def __init__(self, config: Any, tokenizer: Any, image_processor: Any, qformer_tokenizer: Any) -> None:
        super().__init__(config, tokenizer, image_processor)
        self.qformer_tokenizer = qformer_tokenizer
        qformer_tokenizer.truncation_side = "left"  # LAVIS'; not every folder says it

    @classmethod
    def model_class(cls, config: Any) -> Any:
        if config.model_type == "instructblip":
            return InstructBlipForConditionalGeneration
        return AutoModelForImageTextToText._model_mapping[type(config)]  # one that is registered there, such as ours

    @classmethod
    def parts(cls, config: Any) -> Parts:
        return Parts(
            "language_model",
            "vision_model",
            # LAVIS trains the norm behind the frozen tower too, its ln_vision.
            ("qformer", "language_projection", "vision_model.post_layernorm"),
            parameters=("query_tokens",),
            targets=("q_proj", "v_proj"),
        )

    @classmethod
    def settled(cls, config: Any, folder: Path) -> Any:
        """With `image_token_index`, which older folders leave to the tokenizer."""
        if not config.use_decoder_only_language_model:
            raise CheckpointError(
                f"{folder}/config.json: the language model is a {config.text_config.model_type}, an encoder-decoder; "
                "only InstructBLIP on a decoder is known here: take one on Vicuna"
            )
        if config.image_token_index is None and folder.is_dir():
            config.image_token_index = _image_token_of(folder)
        return config

    @classmethod
    def typical_image(cls, config: Any) -> dict[str, Tensor]:
        side = config.vision_config.image_size
        question = torch.zeros(1, _USUAL_QUESTION, dtype=torch.long)
        return {"pixel_values": torch.zeros(1, 3, side, side), "qformer_input_ids": question}

    @classmethod
    def open(cls, config: Any, folder: Path, tokenizer: Any, image_processor: Any) -> InstructBlipFamily:
        found, vocabulary = tokenizer.get_vocab().get(IMAGE_TOKEN), config.text_config.vocab_size
        if found is None or found != config.image_token_index or found >= vocabulary:
            raise CheckpointError(
                f"{folder}: the tokenizer's id of {IMAGE_TOKEN} is {found}, the model's image_token_index is "
                f"{config.image_token_index}, and it has embeddings for {vocabulary} tokens; expected the same id in "
                "both, with an embedding."
            )
        check_image_size(image_processor, config.vision_config, folder)
        return cls(config, tokenizer, image_processor, _qformer_tokenizer(folder, config.qformer_config.vocab_size))

    def save(self, folder: Path) -> None:
        super().save(folder)
        self.qformer_tokenizer.save_pretrained(folder / QFORMER_TOKENIZER)

    @property
    def image_tokens_per_image(self) -> int:
        """How many of it stand for one image."""
        return self.config.num_query_tokens

    def encoder(
        self, template: Template | str, *, aspect_ratio: str | None = None, max_length: int | None = None
    ) -> InstructBlipEncoder:
        return InstructBlipEncoder(
            self.tokenizer,
            self.qformer_tokenizer,
            self.image_processor,
            self.template(template) if isinstance(template, str) else template,
            image_token_id=self.image_token_id,
            image_tokens_per_image=self.image_tokens_per_image,
            max_length=max_length,
            aspect_ratio=aspect_ratio or self.usual_aspect_ratio,
        )

    def run_connector_in_every_step(self, model: Any) -> None:
        """Nothing to do: every row has an image."""

    def prefix(
        self, model: Any, input_ids: Tensor, inputs: Mapping[str, Tensor], routing: Mapping[str, Tensor]
    ) -> Prefix:
        start = model(input_ids=input_ids[None], **inputs, **routing, use_cache=True, logits_to_keep=1)
        return Prefix(start.logits, start.language_model_outputs.past_key_values, state=len(input_ids))

    def extend(self, model: Any, prefix: Prefix, tokens: Tensor, routing: Mapping[str, Tensor]) -> Tensor:
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(tokens))
        return model(
            input_ids=tokens,
            # Without it, the mask would be as long as these tokens alone.
            attention_mask=tokens.new_ones(len(tokens), prefix.state + tokens.shape[1]),
            # The images are in the cache. The model wants features all the same, and takes none of them.
            mm_encoder_outputs={"image": BaseModelOutputWithVisionQformerOutputs(pooler_output=torch.zeros(0))},
            pixel_values=None,
            qformer_input_ids=None,
            past_key_values=cache,
            use_cache=True,
            **{name: value.expand(len(tokens), *value.shape[1:]) for name, value in routing.items()},
        ).logits


def _qformer_tokenizer(folder: Path, vocabulary: int) -> Any:
    place = folder / QFORMER_TOKENIZER
    if not place.is_dir():
        raise CheckpointError(f"{place}: no such folder; expected the Q-Former's tokenizer (BERT's) in it.")
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
    except Exception as error:
        raise CheckpointError(f"{place}: cannot be loaded ({type(error).__name__}: {error}).") from error
    if len(tokenizer) > vocabulary:
        raise CheckpointError(
            f"{place}: has {len(tokenizer)} tokens, but the Q-Former has embeddings for {vocabulary}; the tokenizer is "
            "of another model."
        )
    return tokenizer


def _image_token_of(folder: Path) -> int:
    try:
        found = AutoTokenizer.from_pretrained(folder).get_vocab().get(IMAGE_TOKEN)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: config.json has no image_token_index, and the tokenizer that would say it cannot be loaded "
            f"({type(error).__name__}: {error})."
        ) from error
    if found is None:
        raise CheckpointError(
            f"{folder}: neither config.json (image_token_index) nor the tokenizer has {IMAGE_TOKEN}. Add it to the "
            "tokenizer, give it an embedding, and write its id into config.json; newer copies of the folder have it."
        )
    return found
