"""Tokenizers small enough to be made while the tests run, of the two kinds real models have; a file of rows."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import CLIPImageProcessorPil, LlamaTokenizer, PreTrainedTokenizerFast

from llava_mocle.data.rows import rows_cache_dir
from tests.data.sentencepiece_model import SENTENCES, SlowLlama, train_sentencepiece

CHATML = (
    "{% for message in messages %}"
    "{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="session")
def llama(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Llama-style tokenizers over one trained sentencepiece model.

    `slow` asks sentencepiece itself; `legacy` puts "▁" in front of every piece between special tokens, as Llama 1 and 2
    were trained; `modern` puts it at the start of the text only, as `legacy=False` does.
    """
    folder = tmp_path_factory.mktemp("llama")
    model_file = train_sentencepiece(folder)
    modern = LlamaTokenizer(
        **_vocabulary(folder), legacy=False, add_bos_token=True, pad_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    return SimpleNamespace(slow=SlowLlama(model_file), modern=modern, legacy=_legacy(**_vocabulary(folder)))


def _vocabulary(folder: Path) -> dict:
    made = LlamaTokenizer.convert_to_native_format(vocab_file=str(folder / "tokenizer.model"))
    return {"vocab": made["vocab"], "merges": made["merges"]}


def _legacy(vocab: dict, merges: list) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(BPE(vocab=vocab, merges=merges, fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    special = ("<unk>", "<s>", "</s>")
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.fixture(scope="session")
def chatml() -> PreTrainedTokenizerFast:
    """A byte-level BPE with a ChatML template, as SmolLM2 and Qwen have."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Indented text, so that a newline and the space behind it become one token, as in large vocabularies.
    tokenizer.train_from_iterator([*SENTENCES, "x\n  y\n  z"] * 5, trainer)
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    made.chat_template = CHATML
    return made


@pytest.fixture(scope="session")
def trimming(chatml: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """The same, and a token's offsets leave its spaces out, as Llama 3's do."""
    made = copy.deepcopy(chatml)
    made.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    return made


@pytest.fixture(scope="session")
def image_processor() -> CLIPImageProcessorPil:
    return CLIPImageProcessorPil(
        size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}, image_mean=[0.48, 0.45, 0.4]
    )


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """A folder with red.png (20 x 10) and blue.jpg (8 x 8)."""
    folder = tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (20, 10), (255, 0, 0)).save(folder / "red.png")
    Image.new("RGB", (8, 8), (0, 0, 255)).save(folder / "blue.jpg")
    return folder


def make_row(*texts: str, image: object = None, row_id: object = "r") -> dict:
    """A row of alternating human and gpt turns."""
    turns = [{"from": ("human", "gpt")[index % 2], "value": text} for index, text in enumerate(texts)]
    return {"id": row_id, "conversations": turns} | ({} if image is None else {"image": image})


ROWS = [
    make_row("<image>\nWhat?", "é", image="a.png", row_id=0),
    make_row("  padded", "猫", "q", "a", row_id="x"),
    make_row("q <image> r", "a", "again <image>", "b", image=["a", "b"], row_id=None) | {"extra": {"k": [1, None]}},
]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    return rows_cache_dir()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(ROWS), encoding="utf-8")
    return path
