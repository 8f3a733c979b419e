"""Ids and labels, held against LLaVA-1.5's way of making them: measure lengths of tokenized rounds and count along."""

import copy
import json
import random
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, processors
from transformers import LlamaTokenizer, PreTrainedTokenizerFast

from llava_mocle.data.conversation import Turn, place_images, row_turns
from llava_mocle.data.template_names import TEMPLATE_NAMES
from llava_mocle.data.templates import get_template
from llava_mocle.data.tokenize import IGNORE_INDEX, RowTooLong, extents, tokenize_prompt, tokenize_row
from llava_mocle.errors import ConfigError, DataError
from tests.data.conftest import make_row

IMAGE_ID = 9999
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
SNIPPETS = [
    "A cat", "what is this?", " ", "  ", "\n", "\n\n", "\t", "你好，世界。", "猫", "日本語", "مرحبا", "Это кошка", "😀",
    "👨‍👩‍👧", "é", "e\u0301", "1234", "3.14", "$x^2$", "def f(x):\n    return x", "<b>", "▁", "\u3000", "\xa0", "\r\n",
    "ASSISTANT", "USER:", ":", "image>", "three circles.",
]  # fmt: skip


def reference(row: dict, encode, image_tokens: int, shorter: int) -> tuple[list[int], list[int]]:
    """LLaVA-1.5's ids and labels by counting lengths.

    `encode` gives a text's ids with the start token in front; `shorter` is by how many tokens "USER" is shorter behind
    </s> than at the start of a text (Llama's own vocabulary, legacy=False: 1).
    """
    turns = [dict(turn) for turn in row["conversations"]]
    if "image" in row:
        for turn in turns:
            if count := turn["value"].count("<image>"):
                rest = turn["value"].replace("<image>", "").strip()
                turn["value"] = ("<image>\n" * count + rest).strip()
    text = SYSTEM + " "
    for turn in turns if turns[0]["from"] == "human" else turns[1:]:
        text += f"USER: {turn['value']} " if turn["from"] == "human" else f"ASSISTANT: {turn['value']}</s>"

    def with_images(part: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(part.split("<image>")):
            ids += [None] * bool(number) + encode(piece)[min(number, 1) :]
        return ids

    ids = with_images(text)
    labels = list(ids)
    labels[0] = IGNORE_INDEX
    position = 1
    for number, part in enumerate(text.split("</s>")[:-1]):
        question = part.split(" ASSISTANT: ")[0] + " ASSISTANT: "
        # Counted with the start token and the separator's "▁": neither belongs to the question inside the whole.
        masked, length = len(with_images(question)) - 2, len(with_images(part))
        if number:
            masked, length = masked - shorter, length - shorter
        labels[position : position + masked] = [IGNORE_INDEX] * masked
        position += length
    assert position == len(ids), "the reference miscounted: choose other text"
    spread = [(IMAGE_ID, IGNORE_INDEX)] * image_tokens
    pairs = [pair for a, b in zip(ids, labels, strict=True) for pair in (spread if a is None else [(a, b)])]
    return [pair[0] for pair in pairs], [IGNORE_INDEX if pair[1] is None else pair[1] for pair in pairs]


def tokenize(row: dict, template, tokenizer, image_tokens: int = 3, max_length: int | None = None):
    options = {"image_token_id": IMAGE_ID, "image_tokens_per_image": image_tokens, "max_length": max_length}
    return tokenize_row(row, template, tokenizer, **options)


def random_rows(seed: int, count: int) -> list[dict]:
    chance = random.Random(seed)

    def text() -> str:
        made = chance.choice(["", " ", "\n"]) + "".join(chance.choices(SNIPPETS, k=chance.randint(1, 5)))
        return made + chance.choice(["", "", " ", "\n"]) if made.strip() else text()

    rows = []
    for _ in range(count):
        texts = [text() for _ in range(2 * chance.randint(1, 3))]
        image = chance.random() < 0.7
        if image:
            place = 2 * chance.randrange(len(texts) // 2) if chance.random() < 0.3 else 0
            cut = chance.choice([0, len(texts[place]), chance.randrange(len(texts[place]))])
            texts[place] = texts[place][:cut] + "<image>" + texts[place][cut:]
            if chance.random() < 0.1:
                texts[place] = "<image>"
        rows.append(make_row(*texts, image="a.png" if image else None))
    return rows


NASTY = [
    make_row("<image>\nWhat is this?", "A cat on a red chair.", image="a"),
    make_row("What is this?\n<image>", "猫在椅子上。", image="a"),
    make_row("What <image> is this? \n", "\n\n  A cat \n", image="a"),
    make_row("<image>", "😀", image="a"),
    make_row("Both:<image> and <image>.", "Yes.", image=["a", "b"]),
    make_row("  How many?  ", " three ", "\nand now?\n", "四", "and?", "😀😀"),
    make_row("hello", "world", "<image> late", "猫", image="a"),
    {"id": 1, "image": "a", "conversations": [{"from": "gpt", "value": "I speak first."}]
     + make_row("<image>\nq", "a")["conversations"]},
]  # fmt: skip


@pytest.mark.parametrize("kind", ["legacy", "modern"])
def test_vicuna_v1_is_llava_token_for_token(llama: SimpleNamespace, kind: str) -> None:
    """Every id and label of 8 chosen and 300 random rows, text around <image>, whitespace, many scripts.

    The reference asks sentencepiece itself, as Llama's slow tokenizer does.
    """
    tokenizer, legacy = getattr(llama, kind), kind == "legacy"
    template = get_template("vicuna_v1", tokenizer)
    shorter = len(llama.slow.encode("USER", legacy)) + 1 - len(llama.slow.encode("</s>USER", legacy))
    for row in NASTY + random_rows(0, 300):
        made = tokenize(row, template, tokenizer)
        ids, labels = reference(row, lambda text: [1, *llama.slow.encode(text, legacy)], 3, shorter)
        assert made["input_ids"].tolist() == ids, row
        assert made["labels"].tolist() == labels, row


@pytest.mark.parametrize("kind", ["legacy", "modern"])
@pytest.mark.parametrize("lead", ["", " ", "  ", "▁", " ▁", "\n", "</s>", "</s> ", " </s>"])
def test_spaces_at_the_start_of_a_piece_are_all_there(llama: SimpleNamespace, kind: str, lead: str) -> None:
    """A caption or question behind an image may start with anything; sentencepiece puts its own "▁" before it."""
    tokenizer, legacy = getattr(llama, kind), kind == "legacy"
    for caption in ("A cat", "猫", "😀", "x  y", "three circles.</s> A"):
        row = make_row("<image>", lead + caption, image="a")
        made = tokenize(row, get_template("plain"), tokenizer, image_tokens=1)
        assert made["input_ids"].tolist() == [1, IMAGE_ID, *llama.slow.encode(lead + caption + "\n", legacy)]
        assert made["labels"].tolist() == [IGNORE_INDEX, IGNORE_INDEX, *made["input_ids"].tolist()[2:]]
        # The template's text right behind an image: " ASSISTANT:".
        row = make_row("<image>", caption, image="a")
        row["conversations"][0]["value"] = "<image>"
        ids = tokenize(row, get_template("vicuna_v1", tokenizer), tokenizer, image_tokens=1)["input_ids"].tolist()
        behind = llama.slow.encode(f" ASSISTANT: {caption}</s>", legacy)
        assert ids[ids.index(IMAGE_ID) + 1 :] == behind


def test_separator_space_of_its_own_is_supervised(llama: SimpleNamespace) -> None:
    """Before text of single bytes the space after "ASSISTANT:" is its own token; LLaVA-1.5 supervises it."""
    made = tokenize(make_row("q", "😀"), get_template("vicuna_v1", llama.legacy), llama.legacy)
    supervised = made["labels"][made["labels"] != IGNORE_INDEX].tolist()
    tokens = llama.legacy.convert_ids_to_tokens(supervised)
    assert tokens == ["▁", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "</s>"]


# case -> the turns' texts; the answers are every second one
CONVERSATIONS = {
    "one turn": ["<image>\nWhat is this?", "A cat."],
    "image at the end": ["What is this? <image>", "A cat."],
    "several turns": ["<image>\nq", "A cat.", "And now?", "A dog.", "?", "Two"],
    "unicode": ["<image>\nчто это?", "这是一只猫。😀 e\u0301", "¿?", "кошка"],
    "same text twice": ["<image>\nyes", "yes", "yes", "yes"],
    "newlines": ["<image>\nlist", "a\n\n- b\n", "more", "c"],
}
# What a template writes between its header and an answer, and behind it; the model has to write both.
AROUND = {
    "vicuna_v1": (" ", "{eos}"),
    "llama_2": (" ", " {eos}"),
    "mistral": (" ", "{eos}"),
    "instructblip": (" ", "{eos}"),
    "chat": ("", "{eos}"),
    "plain": ("", "\n"),
}


# `plain` holds one caption and no system prompt; `instructblip` holds no system prompt either.
CASES = [
    (name, system, case)
    for name in TEMPLATE_NAMES
    for system in (None, "", "Be brief.")
    for case in CONVERSATIONS
    if name not in ("plain", "instructblip") or (not system and (name != "plain" or len(CONVERSATIONS[case]) == 2))
]


@pytest.mark.parametrize(("name", "system", "case"), CASES)
def test_supervised_tokens_decode_to_the_answers(
    name: str, system: str | None, case: str, llama: SimpleNamespace, chatml: PreTrainedTokenizerFast
) -> None:
    answers = CONVERSATIONS[case][1::2]
    row = make_row(*CONVERSATIONS[case], image="a")
    for tokenizer in [chatml] if name == "chat" else [chatml, llama.legacy, llama.modern]:
        made = tokenize(row, get_template(name, tokenizer, system), tokenizer)
        lead, trail = AROUND[name]
        # Each run of supervised tokens by itself: in order, one an answer.
        runs: list[list[int]] = []
        previous = IGNORE_INDEX
        for label in made["labels"].tolist():
            if label != IGNORE_INDEX:
                runs += [[]] if previous == IGNORE_INDEX else []
                runs[-1].append(label)
            previous = label
        decoded = [tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]
        # A Llama decoder drops one leading space of whatever it is given.
        lead = lead if tokenizer is chatml else ""
        assert decoded == [lead + answer + trail.format(eos=tokenizer.eos_token) for answer in answers]
        assert IMAGE_ID not in made["labels"].tolist()


@pytest.mark.parametrize("name", TEMPLATE_NAMES)
def test_generation_prompt_is_the_start_of_the_training_row(
    name: str, llama: SimpleNamespace, chatml: PreTrainedTokenizerFast
) -> None:
    """What the model is given at inference is, token for token, what it saw in front of the answer."""
    for tokenizer in [chatml] if name == "chat" else [chatml, llama.legacy, llama.modern]:
        template = get_template(name, tokenizer)
        for answer in ("A cat.", "猫", "  spaces", "\nline", "😀"):
            row = make_row("What?\n<image>", answer, image="a")
            made = tokenize(row, template, tokenizer)
            prompt = tokenize_prompt(
                row_turns(row)[:-1], template, tokenizer, image_token_id=IMAGE_ID, image_tokens_per_image=3
            )
            first = int((made["labels"] != IGNORE_INDEX).nonzero()[0])
            assert made["input_ids"].tolist()[:first] == prompt.tolist(), (name, answer)


def test_prompt_takes_texts_as_they_are(chatml: PreTrainedTokenizerFast) -> None:
    template = get_template("vicuna_v1", chatml)
    options = {"image_token_id": IMAGE_ID, "image_tokens_per_image": 2}
    loose = tokenize_prompt([Turn("human", "<image>\nq \n")], template, chatml, **options)
    placed = tokenize_prompt([Turn("human", place_images("q <image>"))], template, chatml, **options)
    assert chatml.decode(loose[loose != IMAGE_ID]).endswith("USER: \nq \n ASSISTANT:")
    assert chatml.decode(placed[placed != IMAGE_ID]).endswith("USER: \nq ASSISTANT:")


def test_start_token_once_and_image_block(llama: SimpleNamespace) -> None:
    tokenizer = llama.legacy
    row = make_row("<image> and <image>", "Yes.", image=["a", "b"])
    ids = tokenize(row, get_template("vicuna_v1", tokenizer), tokenizer, image_tokens=5)["input_ids"].tolist()
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert ids.count(IMAGE_ID) == 10


def test_truncation_keeps_images_whole(llama: SimpleNamespace) -> None:
    tokenizer = llama.legacy
    template = get_template("vicuna_v1", tokenizer)
    row = make_row("<image>\nq", "a cat on a chair " * 20, image="a")
    whole = tokenize(row, template, tokenizer)
    first = int((whole["labels"] != IGNORE_INDEX).nonzero()[0])
    cut = tokenize(row, template, tokenizer, max_length=first + 1)
    assert cut["input_ids"].tolist() == whole["input_ids"].tolist()[: first + 1]
    assert cut["labels"].tolist() == whole["labels"].tolist()[: first + 1]
    with pytest.raises(RowTooLong, match="no answer starts before"):
        tokenize(row, template, tokenizer, max_length=first)
    last_image = max(place for place, token in enumerate(whole["input_ids"].tolist()) if token == IMAGE_ID)
    with pytest.raises(RowTooLong, match="an image ends after token"):
        tokenize(row, template, tokenizer, max_length=last_image)
    # The answer before the image fits, the image does not: still no half image.
    late = make_row("hello", "world", "<image>\nq", "a", image="a")
    places = [
        place for place, token in enumerate(tokenize(late, template, tokenizer)["input_ids"]) if token == IMAGE_ID
    ]
    with pytest.raises(RowTooLong, match="an image ends after token"):
        tokenize(late, template, tokenizer, max_length=places[1])


def test_tags_and_images_must_agree(chatml: PreTrainedTokenizerFast) -> None:
    template = get_template("vicuna_v1", chatml)
    with pytest.raises(DataError, match="1 <image> tags for 0 images"):
        tokenize(make_row("<image>\nq", "a"), template, chatml)
    with pytest.raises(DataError, match="0 <image> tags for 1 images"):
        tokenize(make_row("q", "a", image="a"), template, chatml)


def test_slow_tokenizer_is_refused(chatml: PreTrainedTokenizerFast) -> None:
    slow = SimpleNamespace(is_fast=False)
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        tokenize(make_row("q", "a"), get_template("vicuna_v1"), slow)


def with_trimmed_offsets(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


@pytest.mark.parametrize("name", ["vicuna_v1", "mistral", "chat"])
def test_trimmed_offsets_cover_the_same_tokens(name: str, chatml: PreTrainedTokenizerFast) -> None:
    """Some byte-level tokenizers leave spaces out of their offsets; the labels must not change."""
    trimming = PreTrainedTokenizerFast(
        tokenizer_object=with_trimmed_offsets(chatml), bos_token="<|im_start|>", eos_token="<|im_end|>"
    )
    # Its header ends with a space, a token of its own in front of a newline.
    style = "{% for m in messages %}# {{m['role']}}: {{m['content']}}<|im_end|>{% endfor %}"
    style += "{% if add_generation_prompt %}# assistant: {% endif %}"
    plain = copy.deepcopy(chatml)
    plain.chat_template = trimming.chat_template = style
    row = make_row("q", " a  cat ", "r", "two words", "s", "\nline ")
    made = [tokenize(row, get_template(name, tokenizer), tokenizer) for tokenizer in (plain, trimming)]
    assert made[0]["input_ids"].tolist() == made[1]["input_ids"].tolist()
    assert made[0]["labels"].tolist() == made[1]["labels"].tolist()


def test_token_of_no_character_stands_at_its_position() -> None:
    assert extents([(0, 0), (0, 3), (4, 6), (6, 7), (6, 7), (7, 7)]) == [
        (0, 1),
        (0, 3),
        (3, 6),
        (6, 7),
        (6, 7),
        (7, 8),
    ]


def test_header_and_answer_never_share_a_token(chatml: PreTrainedTokenizerFast) -> None:
    assert len(chatml("\n  y").input_ids) == 2  # "\n " and " y": one token over both sides if the text were not cut
    made = tokenize(make_row("q", "  y"), get_template("chat", chatml), chatml)
    supervised = made["labels"][made["labels"] != IGNORE_INDEX]
    assert chatml.decode(supervised) == "  y<|im_end|>"


def test_start_token_that_a_chat_template_writes_is_not_doubled(llama: SimpleNamespace) -> None:
    tokenizer = copy.deepcopy(llama.legacy)
    tokenizer.chat_template = (
        "{{bos_token}}{% for m in messages %}{% if m['role'] == 'user' %}[INST] {{m['content']}} [/INST]{% else %}"
        " {{m['content']}}</s>{% endif %}{% endfor %}"
    )
    ids = tokenize(make_row("<image>\nq", "a", image="x"), get_template("chat", tokenizer), tokenizer)["input_ids"]
    assert (ids == tokenizer.bos_token_id).nonzero().flatten().tolist() == [0]


def test_an_answer_cut_off_its_header_gets_no_space_of_its_own(llama: SimpleNamespace) -> None:
    """Llama's vocabulary has "▁▁": over a header's last space and an answer's first one, if the text were not cut."""
    vocab = llama.modern.get_vocab()
    merges = [tuple(pair) for pair in json.loads(llama.modern.backend_tokenizer.to_str())["model"]["merges"]]
    tokenizer = LlamaTokenizer(
        vocab=vocab | {"▁▁": len(vocab)}, merges=[("▁", "▁"), *merges], legacy=False, pad_token="<unk>"
    )
    tokenizer.chat_template = "{% for m in messages %}{{m['role']}}: {{m['content']}}</s>{% endfor %}"
    tokenizer.chat_template += "{% if add_generation_prompt %}assistant: {% endif %}"
    ids = tokenize(make_row("q", " a cat"), get_template("chat", tokenizer), tokenizer)["input_ids"].tolist()
    assert "".join(tokenizer.convert_ids_to_tokens(ids)) == "▁user:▁q</s>assistant:▁▁a▁cat</s>"
