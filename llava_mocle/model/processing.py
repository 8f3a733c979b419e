"""Tokenizer, image processor and prompt template of a model folder."""

from pathlib import Path
from typing import Any

from transformers import AddedToken, AutoImageProcessor, AutoTokenizer, CLIPImageProcessorPil, SiglipImageProcessorPil

from llava_mocle.clustering.instruction import IMAGE_TOKEN
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.families.image_tokens import check_image_size
from llava_mocle.io.jsonl import read_json
from llava_mocle.model.folders import TEMPLATE_FILE
from llava_mocle.model.llama_tokenizer import holds_llama_tokenizer, load_llama_tokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json")
# A tokenizer without a stated limit reports 10 ** 30.
_NO_LIMIT = 10**9


def has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def has_image_processor(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json"))


def load_tokenizer(folder: Path) -> Any:
    """The folder's tokenizer; a Llama one with the ids LLaVA-1.5 was trained on, whatever files it comes in.

    Raises:
        CheckpointError: there is none, or it cannot give character offsets, from which labels are made.
    """
    if not has_tokenizer(folder):
        raise CheckpointError(f"{folder}: has no tokenizer; expected one of {', '.join(_TOKENIZER_FILES)}.")
    try:
        if holds_llama_tokenizer(folder):
            # For the model type "llava" and a lone tokenizer.model, `AutoTokenizer` gives one that never writes "▁".
            tokenizer = load_llama_tokenizer(folder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{folder}: its tokenizer cannot be loaded ({type(error).__name__}: {error}).") from error
    if not tokenizer.is_fast:
        raise CheckpointError(
            f"{folder}: its tokenizer ({type(tokenizer).__name__}) gives no character offsets, which labels are made "
            "from; save one that does (a tokenizer.json) into the folder."
        )
    return tokenizer


def prepare_tokenizer(tokenizer: Any) -> int:
    """Add `<image>` as one special token and settle the padding token, as LLaVA does; returns the id of `<image>`."""
    if IMAGE_TOKEN not in tokenizer.get_vocab():
        tokenizer.add_tokens([AddedToken(IMAGE_TOKEN, special=True, normalized=False)], special_tokens=True)
    if tokenizer.pad_token is None:
        # Padding is masked everywhere, so an existing token serves; the vocabulary need not grow for it.
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    if tokenizer.pad_token is None:
        raise ConfigError("the tokenizer has no padding, unknown or end-of-sequence token to pad with; set pad_token")
    return tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)


def load_image_processor(folder: Path) -> Any:
    """The folder's image processor on the PIL backend, which needs no torchvision."""
    try:
        return AutoImageProcessor.from_pretrained(folder, backend="pil")
    except Exception as error:
        raise CheckpointError(
            f"{folder}: its image processor cannot be loaded ({type(error).__name__}: {error}); expected "
            "preprocessor_config.json."
        ) from error


def image_processor_for(folder: Path, vision_config: Any) -> Any:
    """The processor saved beside a vision tower, or the one its kind is used with.

    Raises:
        CheckpointError: it makes images of another size than the tower takes.
    """
    if has_image_processor(folder):
        processor = load_image_processor(folder)
    else:
        processor = _default_image_processor(vision_config)
    check_image_size(processor, vision_config, folder)
    return processor


def _default_image_processor(vision_config: Any) -> Any:
    side = vision_config.image_size
    square = {"height": side, "width": side}
    if vision_config.model_type.startswith("siglip"):
        return SiglipImageProcessorPil(size=square)
    if vision_config.model_type == "llava_mocle_grid":
        half = [0.5, 0.5, 0.5]
        return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square, image_mean=half, image_std=half)
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size=square)


def max_length(tokenizer: Any, text_config: Any) -> int:
    """Longest sample in tokens: the tokenizer's limit or the model's positions, whichever is less; else 2048."""
    positions = getattr(text_config, "max_position_embeddings", None) or _NO_LIMIT
    limit = min(tokenizer.model_max_length or _NO_LIMIT, positions)
    return limit if limit < _NO_LIMIT else 2048


def choose_template(
    folder: Path,
    tokenizer: Any,
    text_config: Any,
    recipe: dict[str, Any] | None = None,
    usual: str | None = None,
) -> str:
    """Name of the prompt template a folder was made with, from its files.

    Order: `version` of the recipe, `llava_mocle.json`, the usual one of the model's family, a chat template that speaks
    Vicuna, any chat template, a Llama model without one (Vicuna and LLaVA-1.5 as published).

    Raises:
        CheckpointError: nothing says which.
    """
    if recipe and recipe.get("version"):
        return str(recipe["version"])
    if (folder / TEMPLATE_FILE).is_file():
        name = read_json(folder / TEMPLATE_FILE).get("template")
        if not isinstance(name, str):
            raise CheckpointError(f"{folder / TEMPLATE_FILE}: template is {name!r}, expected the name of a template.")
        return name
    if usual is not None:
        return usual
    if tokenizer.chat_template:
        return "vicuna_v1" if _speaks_vicuna(tokenizer) else "chat"
    if text_config.model_type == "llama" and tokenizer.eos_token == "</s>":
        return "vicuna_v1"
    raise CheckpointError(
        f"{folder}: nothing says which prompt template it takes ({TEMPLATE_FILE}, a recipe or a chat template); "
        "pass template=..., or write " + '{"template": "vicuna_v1"}' + f" to {folder / TEMPLATE_FILE}."
    )


def _speaks_vicuna(tokenizer: Any) -> bool:
    """Whether a chat template writes Vicuna's roles. It is rendered, because its code may put them together."""
    chat = tokenizer.chat_template
    contents: tuple[Any, ...] = ("question", [{"type": "text", "text": "question"}])
    for source in [chat] if isinstance(chat, str) else chat.values():
        for content in contents:
            turns = [{"role": "user", "content": content}]
            try:
                text = tokenizer.apply_chat_template(
                    turns, chat_template=source, tokenize=False, add_generation_prompt=True
                )
            except Exception:  # templates raise all kinds of errors for a form of content that they do not take
                continue
            if "USER:" in text and "ASSISTANT:" in text:
                return True
    return False
