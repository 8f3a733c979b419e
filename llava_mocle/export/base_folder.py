"""What lies beside the weights of a whole model: its configuration, tokenizer, chat template and processor."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from llava_mocle.data.conversation import Template
from llava_mocle.errors import CheckpointError
from llava_mocle.export.chat_template import jinja_of
from llava_mocle.inference.generation import Stopping
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.build import write_processor
from llava_mocle.model.folders import TEMPLATE_FILE

# What says where a part came from, on the machine that trained it.
_ORIGIN = "_name_or_path"


def write_base_files(
    folder: Path, loaded: Any, template: Template, stopping: Stopping, dtype: torch.dtype, architecture: str
) -> None:
    """Write everything but the weights.

    Args:
        loaded: the `LoadedModel`.
        template: its prompt template.
        stopping: what ends an answer.
        architecture: the name by which the engine knows the model's class.

    Raises:
        CheckpointError: an engine's tokenizer gives other tokens.
    """
    config = copy.deepcopy(loaded.model.config)
    write_config(folder, config, dtype, architecture)
    write_generation_config(folder, loaded.tokenizer, stopping)
    tokenizer = write_tokenizer(folder, loaded.tokenizer, template)
    write_processor(folder, tokenizer, loaded.image_processor, config)
    (folder / TEMPLATE_FILE).write_text(json.dumps({"template": loaded.template}) + "\n", encoding="utf-8")


def write_config(folder: Path, config: Any, dtype: torch.dtype, architecture: str) -> None:
    """Write config.json, without the places that the parts came from."""
    name = str(dtype).removeprefix("torch.")
    config.dtype = name
    config.architectures = [architecture]
    config.save_pretrained(folder)
    values = _without_origin(read_json(folder / "config.json"))
    for part in (values.get("text_config"), values.get("vision_config")):
        if isinstance(part, dict):
            part["dtype"] = name
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def write_generation_config(folder: Path, tokenizer: Any, stopping: Stopping) -> None:
    """Write generation_config.json: what ends an answer, and no settings that sample or punish."""
    pad = tokenizer.pad_token_id
    GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=list(stopping.token_ids) or None, pad_token_id=pad
    ).save_pretrained(folder)


def write_tokenizer(folder: Path, tokenizer: Any, template: Template) -> Any:
    """Write the tokenizer and chat_template.jinja; returns the tokenizer as an engine loads it.

    Raises:
        CheckpointError: it cannot be loaded, or gives other tokens than the model was trained on.
    """
    _as_it_is(tokenizer).save_pretrained(folder)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    loaded = engine_tokenizer(folder)
    loaded.chat_template = jinja_of(template, tokenizer, loaded)
    loaded.save_pretrained(folder)
    return engine_tokenizer(folder)


def engine_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder as every engine loads it: by transformers alone.

    Raises:
        CheckpointError: it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(folder)
    except Exception as error:
        raise CheckpointError(
            f"{folder}: its tokenizer cannot be loaded as an engine does it ({type(error).__name__}: {error})."
        ) from error


def _as_it_is(tokenizer: Any) -> Any:
    """A tokenizer that everybody loads from its tokenizer.json as it is.

    transformers makes Llama's anew from the vocabulary, and then gives other ids than LLaVA-1.5 was trained on.
    """
    if not type(tokenizer).__name__.startswith("Llama"):
        return copy.deepcopy(tokenizer)
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    tokens = {name: token for name in names if (token := getattr(tokenizer, name)) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(tokenizer.backend_tokenizer),
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
        **tokens,
    )


def _without_origin(values: Any) -> Any:
    if isinstance(values, dict):
        return {key: _without_origin(value) for key, value in values.items() if key != _ORIGIN}
    return values
