"""What the house asks of a kind of model. Whoever trains, answers or plans asks the family, never the model's type."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor
from torch.utils.hooks import RemovableHandle

from llava_mocle.data.conversation import Template
from llava_mocle.data.encoder import Encoder
from llava_mocle.data.template_names import TEMPLATE_NAMES
from llava_mocle.data.templates import get_template
from llava_mocle.families.parts import Parts

# Keys of a language model's configuration in transformers that change its logits: Gemma 2's, Granite's, Cohere's and
# Falcon-H1's.
_BEHIND_THE_HEAD = ("final_logit_softcapping", "logits_scaling", "logit_scale", "lm_head_multiplier")


@dataclass
class Prefix:
    """A question that the model has read, for `Family.extend`.

    Attributes:
        logits: (1, 1, V), of what follows its last token.
        cache: keys and values of the language model.
        state: whatever else the family keeps of it.
    """

    logits: Tensor
    cache: Any
    state: Any = None


class Family(ABC):
    """One kind of model, with the tokenizer and the image processor of one folder. It holds no weights.

    Attributes:
        config: the model's configuration.
        tokenizer: a fast one.
        image_processor: on the PIL backend.
    """

    # What people read: "LLaVA", "InstructBLIP".
    name: ClassVar[str]
    # Ends of the names of weights in old files that every model computes anew.
    derived_weights: ClassVar[tuple[str, ...]] = ()
    # Whether stage 1 can train the projector alone, and a folder can hold it alone.
    has_stage_1: ClassVar[bool] = False
    # The prompt template and the preparation of images that hold where nothing says otherwise. None: no such default.
    usual_template: ClassVar[str | None] = None
    usual_aspect_ratio: ClassVar[str] = "square"
    # The names of the prompt templates that it has.
    template_names: ClassVar[tuple[str, ...]] = TEMPLATE_NAMES
    # The longest sample in tokens where nothing says otherwise.
    usual_length: ClassVar[int] = 2048

    def __init__(self, config: Any, tokenizer: Any, image_processor: Any) -> None:
        self.config = config
        self.tokenizer = tokenizer
        self.image_processor = image_processor

    # ------ what the configuration alone says

    @classmethod
    def name_of(cls, config: Any) -> str:
        """The name of such a model for people, where a family holds several kinds."""
        return cls.name

    @classmethod
    @abstractmethod
    def model_class(cls, config: Any) -> Any:
        """The class in transformers that holds such a model."""

    @classmethod
    @abstractmethod
    def parts(cls, config: Any) -> Parts:
        """What such a model is made of."""

    @classmethod
    def settled(cls, config: Any, folder: Path) -> Any:
        """The configuration with what published folders may leave out.

        Raises:
            CheckpointError: something is missing that cannot be known.
        """
        return config

    @classmethod
    @abstractmethod
    def typical_image(cls, config: Any) -> dict[str, Tensor]:
        """What the model's `get_image_features` takes of an image of usual size, for plans."""

    @classmethod
    def behind_the_head(cls, config: Any) -> str | None:
        """What a configuration has, as `key value`, that may change logits behind the linear of the last hidden states.

        None: nothing does. So it is in all kinds that are known, but for PaliGemma on Gemma 2, and for InstructBLIP on
        a language model of that sort.
        """
        text = config.get_text_config()
        for key in _BEHIND_THE_HEAD:
            if getattr(text, key, None) not in (None, 1):
                return f"{key} {getattr(text, key)}"
        return None

    # ------ what a folder adds

    @property
    def image_token_id(self) -> int:
        """The id of the token that stands for images."""
        return self.config.image_token_id

    @classmethod
    def open(cls, config: Any, folder: Path, tokenizer: Any, image_processor: Any) -> Family:
        """The family with what else the folder has for it.

        Raises:
            CheckpointError: a file is missing or damaged, or does not fit the configuration.
        """
        return cls(config, tokenizer, image_processor)

    def save(self, folder: Path) -> None:
        """Write what `open` needs, so that a checkpoint stands on its own."""
        self.tokenizer.save_pretrained(folder)
        self.image_processor.save_pretrained(folder)

    # ------ samples, prompts, batches

    def template(self, name: str, system: str | None = None) -> Template:
        """The prompt template of that name.

        Raises:
            ConfigError: there is none, or this family or its tokenizer lacks what it needs.
        """
        return get_template(name, self.tokenizer, system)

    @abstractmethod
    def encoder(
        self, template: Template | str, *, aspect_ratio: str | None = None, max_length: int | None = None
    ) -> Encoder:
        """What makes samples, prompts and batches.

        Args:
            template: a template of this family's, or its name.
            aspect_ratio: "pad" or "square"; None: as usual.
            max_length: the longest sample in tokens; None: no limit.
        """

    # ------ the model's forward

    @abstractmethod
    def run_connector_in_every_step(self, model: Any) -> RemovableHandle | None:
        """Make a training batch without images run a blank image through tower and connector, times zero.

        Otherwise a text-only batch has no gradient for the connector, and with several processes the ranks would
        disagree about which gradients to reduce.

        Args:
            model: the base model, inside whatever wraps it.

        Returns:
            A handle that takes it off again; None where there is nothing to do.
        """

    def new_tokens(self, output: Tensor, prompt_length: int) -> Tensor:
        """Of what `generate` returns (B, T), the tokens of the answers."""
        return output[:, prompt_length:]

    def prefix(
        self, model: Any, input_ids: Tensor, inputs: Mapping[str, Tensor], routing: Mapping[str, Tensor]
    ) -> Prefix:
        """Read the part that candidate answers of one question have in common.

        Args:
            input_ids: (P,), of the candidates' rows. P may be less than the tokens that `inputs` are for.
            inputs: `Candidates.inputs`, on the model's device.
            routing: `cluster_ids` or `dataset_ids` (1,), or `instruction_ids` (1, L), if the model takes one of them.
        """
        start = model(input_ids=input_ids[None], **inputs, **routing, use_cache=True, logits_to_keep=1)
        return Prefix(start.logits, start.past_key_values)

    def extend(self, model: Any, prefix: Prefix, tokens: Tensor, routing: Mapping[str, Tensor]) -> Tensor:
        """Logits (C, T, V) of what follows each of these tokens.

        Args:
            tokens: (C, T), the candidates' own.
            routing: for one question.
        """
        cache = copy.deepcopy(prefix.cache)
        cache.batch_repeat_interleave(len(tokens))
        repeated = {name: value.expand(len(tokens), *value.shape[1:]) for name, value in routing.items()}
        return model(input_ids=tokens, past_key_values=cache, use_cache=True, **repeated).logits
