"""Llama's sentencepiece tokenizer with the token ids that LLaVA-1.5 was trained on.

These ids come from transformers' slow tokenizer, which called sentencepiece. Folders hold the same vocabulary in
several layouts: tokenizer.model alone, a tokenizer.json that prepends "▁", or one with a Metaspace. transformers gives
other ids for other layouts. Here only the key `legacy` of tokenizer_config.json decides. If it is true or missing, "▁"
goes in front of every stretch of text between special tokens; if it is false, in front of the whole text only.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import LlamaTokenizer

from llava_mocle.io.jsonl import read_json

_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast")
_FIRST_ONLY = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
_EVERY_STRETCH = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ],
}


def holds_llama_tokenizer(folder: Path) -> bool:
    """Whether a folder's tokenizer is Llama's: named so and of its kind, or a lone `tokenizer.model`.

    Byte-level tokenizers (DeepSeek's, for example) carry the name too, and are not.
    """
    settings = _settings(folder)
    name = settings.get("tokenizer_class")
    if name not in (None, *_CLASSES) or settings.get("add_prefix_space") is False:
        return False
    if not (folder / "tokenizer.json").is_file():
        return (folder / "tokenizer.model").is_file()
    core = read_json(folder / "tokenizer.json")
    model, cut = core.get("model") or {}, core.get("pre_tokenizer")
    return name is not None and bool(model.get("byte_fallback")) and (cut is None or cut.get("type") == "Metaspace")


def load_llama_tokenizer(folder: Path) -> LlamaTokenizer:
    """The folder's Llama tokenizer. Saved and loaded again, it gives the same ids."""
    settings = _settings(folder)
    legacy = _is_legacy(folder, settings)
    # By default the slow tokenizer put <s> in front of every text. A tokenizer.json states what it does.
    unsaid = "add_bos_token" not in settings and not (folder / "tokenizer.json").is_file()
    options: dict[str, Any] = {"add_bos_token": True} if unsaid else {}
    tokenizer = LlamaTokenizer.from_pretrained(folder, legacy=legacy, **options)
    core = json.loads(tokenizer.backend_tokenizer.to_str())
    core["normalizer"] = _EVERY_STRETCH if legacy else None
    core["pre_tokenizer"] = None if legacy else _FIRST_ONLY
    for token in core["added_tokens"]:
        # Special tokens are cut out of the text as it is; the normalizer above would change what is looked for.
        token["normalized"] = token["normalized"] and not token["special"]
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(core))
    # Saved in tokenizer_config.json only if it is among these.
    tokenizer.init_kwargs["legacy"] = legacy
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / "tokenizer_config.json"
    return read_json(path) if path.is_file() else {}


def _is_legacy(folder: Path, settings: dict[str, Any]) -> bool:
    if settings.get("legacy") is not None:
        return bool(settings["legacy"])
    path = folder / "tokenizer.json"
    cut = read_json(path).get("pre_tokenizer") if path.is_file() else None
    # transformers 5 does not save `legacy`; its tokenizer.json shows it.
    return cut is None or cut.get("prepend_scheme") != "first"
