"""A small sentencepiece model, and Llama's slow tokenizer written out over sentencepiece alone."""

import re
from functools import cached_property
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

SENTENCES = """A chat between a curious user and an artificial intelligence assistant.
The assistant gives helpful, detailed, and polite answers to the user's questions.
USER: What is shown in this picture? ASSISTANT: A cat on a red chair.
USER: How many circles are there? ASSISTANT: There are three circles.
[INST] Which organ is this? [/INST] It is a brain, seen from above.
the quick brown fox jumps over the lazy dog 0 1 2 3 4 5 6 7 8 9
这是一只猫。 你好，世界。 猫在椅子上。
Это кошка на стуле. Сколько здесь кругов?""".splitlines()


def train_sentencepiece(folder: Path) -> Path:
    """Train a model with Llama's settings; returns `tokenizer.model`."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 20),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=560,
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        split_digits=True,
        allow_whitespace_only_pieces=True,
        character_coverage=0.98,
        minloglevel=2,
    )
    return folder / "tokenizer.model"


class SlowLlama:
    """What transformers 4's slow Llama tokenizer makes of a text, by either value of `legacy`."""

    def __init__(self, model_file: Path) -> None:
        self._file = model_file
        self._sp = sentencepiece.SentencePieceProcessor(model_file=str(model_file))

    @cached_property
    def _bare(self) -> sentencepiece.SentencePieceProcessor:
        """The same model, putting nothing in front of a text."""
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(self._file.read_bytes())
        proto.normalizer_spec.add_dummy_prefix = False
        return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text: str, legacy: bool) -> list[int]:
        """Ids without a start token in front; special tokens in the text are such."""
        if not legacy and text:
            text = "▁" + text.replace("▁", " ")
        parts = re.split("(<s>|</s>|<unk>)", text)
        if not legacy and len(parts) > 1 and parts[0] == "▁":
            # The "▁" in front of a text that starts with a special token is dropped again.
            parts = parts[1:]
        ids: list[int] = []
        for part in filter(None, parts):
            if part in ("<s>", "</s>", "<unk>"):
                ids.append(self._sp.piece_to_id(part))
            else:
                ids += self._sp.encode(part) if legacy else self._without_prefix(part)
        return ids

    def _without_prefix(self, stretch: str) -> list[int]:
        if not stretch.startswith(("▁", " ")):
            return self._bare.encode(stretch)
        # sentencepiece would strip what leads: hold it off with text that is cut away again.
        return self._bare.encode("<unk>" + stretch)[len(self._bare.encode("<unk>")) :]
