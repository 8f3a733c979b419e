"""Llama tokenizers of every file layout, held against sentencepiece itself."""

import json
import random
import shutil
from pathlib import Path

import pytest
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llava_mocle.data.conversation import row_turns
from llava_mocle.data.templates import get_template
from llava_mocle.data.tokenize import tokenize_prompt, tokenize_row
from llava_mocle.errors import CheckpointError
from llava_mocle.model.llama_tokenizer import holds_llama_tokenizer
from llava_mocle.model.processing import load_tokenizer, prepare_tokenizer
from tests.data.conftest import make_row
from tests.data.sentencepiece_model import SlowLlama, train_sentencepiece
from tests.model.parts import make_tokenizer

LAYOUTS = ["model", "prepend", "metaspace", "normalized"]
SNIPPETS = [
    "A cat",
    " ",
    "  ",
    "\n",
    "你好，世界。",
    "Это",
    "😀",
    "▁",
    "</s>",
    "USER:",
    "<",
    "3.14",
    "e\u0301",
    "\t",
    "ASSISTANT: ",
]


@pytest.fixture(scope="module")
def model_file(tmp_path_factory) -> Path:
    return train_sentencepiece(tmp_path_factory.mktemp("sentencepiece"))


def write(folder: Path, model_file: Path, layout: str, legacy: bool | None, model_type: str | None = "llava") -> Path:
    """A folder as published: `layout` says how the vocabulary is written; `legacy` None leaves the key out."""
    folder.mkdir()
    settings = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "pad_token": "<unk>"}
    if legacy is not None:
        settings["legacy"] = legacy
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type, "mm_vision_tower": "x"}))
    shutil.copy(model_file, folder / "tokenizer.model")
    if layout == "model":
        return folder
    made = LlamaTokenizer.from_pretrained(folder)
    core = json.loads(made.backend_tokenizer.to_str())
    if layout != "metaspace":
        replace = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
        core |= {
            "pre_tokenizer": None,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]},
        }
    for token in core["added_tokens"]:
        token["normalized"] = layout == "normalized"
    (folder / "tokenizer.json").write_text(json.dumps(core))
    return folder


def texts(count: int) -> list[str]:
    chance = random.Random(0)
    return ["", " ", "▁", "\n", *("".join(chance.choices(SNIPPETS, k=chance.randint(1, 7))) for _ in range(count))]


def encode(tokenizer, text: str) -> list[int]:
    row = make_row("<image>", text + "x", image="a")
    ids = tokenize_row(row, get_template("plain"), tokenizer, image_token_id=9999, image_tokens_per_image=1)[
        "input_ids"
    ]
    assert ids[:2].tolist() == [1, 9999]
    return ids[2:].tolist()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("legacy", [True, False, None])
@pytest.mark.parametrize("model_type", ["llava", "llama", None])
def test_legacy_alone_decides_the_ids(tmp_path, model_file, layout, legacy, model_type):
    folder = write(tmp_path / "x", model_file, layout, legacy, model_type)
    slow, tokenizer = SlowLlama(model_file), load_tokenizer(folder)
    # Without the key: as the slow tokenizer, unless a tokenizer.json of transformers 5 says otherwise.
    expected = legacy if legacy is not None else layout != "metaspace"
    for text in texts(60):
        assert encode(tokenizer, text) == slow.encode(text + "x\n", expected), (text, layout)
    prepare_tokenizer(tokenizer)
    tokenizer.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["legacy"] is expected
    for again in (load_tokenizer(tmp_path / "saved"), load_tokenizer(_with_config(tmp_path / "saved"))):
        assert again.get_vocab() == tokenizer.get_vocab()
        assert all(encode(again, text) == encode(tokenizer, text) for text in texts(60))


def _with_config(folder: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "llava", "vision_config": {}}))
    return folder


def test_a_lone_tokenizer_model_beside_a_llava_config(tmp_path, model_file):
    """What `AutoTokenizer` reads without any "▁" at the front: 5 model types are on its list, llava among them."""
    shutil.copy(model_file, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "mm_vision_tower": "x"}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.convert_ids_to_tokens(tokenizer("A cat").input_ids)[:2] == ["<s>", "▁A"]
    assert tokenizer("A cat").input_ids == [1, *SlowLlama(model_file).encode("A cat", legacy=True)]
    assert tokenizer.decode(tokenizer("A cat", add_special_tokens=False).input_ids) == "A cat"


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("name", ["vicuna_v1", "llama_2", "plain"])
def test_generation_prompt_is_the_start_of_the_row(tmp_path, model_file, legacy, name):
    tokenizer = load_tokenizer(write(tmp_path / "x", model_file, "model", legacy))
    places = {"image_token_id": prepare_tokenizer(tokenizer), "image_tokens_per_image": 2}
    template = get_template(name, tokenizer)
    for question in ("<image>", "<image>\n  What?", "▁ <image>"):
        for answer in (" A cat", "A cat.", "▁▁", "\n x", "😀"):
            row = make_row(question, answer, image="a")
            ids = tokenize_row(row, template, tokenizer, **places)["input_ids"].tolist()
            prompt = tokenize_prompt(row_turns(row)[:-1], template, tokenizer, **places).tolist()
            assert ids[: len(prompt)] == prompt, (question, answer)


def test_other_tokenizers_are_left_alone(tmp_path, model_file):
    made = make_tokenizer()
    made.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tokenizer_class": "LlamaTokenizerFast"}))
    assert not holds_llama_tokenizer(tmp_path)  # byte-level under Llama's name
    for change in ({"tokenizer_class": "GemmaTokenizer"}, {"add_prefix_space": False}):
        folder = write(tmp_path / str(len(change) + len(str(change))), model_file, "model", False)
        path = folder / "tokenizer_config.json"
        assert holds_llama_tokenizer(folder)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        assert not holds_llama_tokenizer(folder)


def test_a_damaged_tokenizer_is_named(tmp_path, model_file):
    folder = write(tmp_path / "x", model_file, "prepend", False)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: cannot be read as JSON"):
        load_tokenizer(folder)


def test_is_fast(tmp_path, model_file):
    assert isinstance(load_tokenizer(write(tmp_path / "x", model_file, "model", True)), PreTrainedTokenizerFast)
