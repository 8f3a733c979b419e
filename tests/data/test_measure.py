"""Which rows fit, foretold from sizes: the same answer as rendering and tokenizing every row."""

import copy
import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from jinja2 import Environment
from transformers import PreTrainedTokenizerFast

from llava_mocle.data.conversation import Template
from llava_mocle.data.layout import find_layout, watched_texts
from llava_mocle.data.measure import DROPPED, measure_row, measure_rows
from llava_mocle.data.rows import read_rows
from llava_mocle.data.templates import TurnTemplate, get_template
from llava_mocle.data.tokenize import tokenize_row
from llava_mocle.errors import DataError
from tests.data.conftest import CHATML, make_row

IMAGE = {"image_token_id": 9999, "image_tokens_per_image": 4}
STRIPPING = CHATML.replace("message['content']", "message['content'] | trim")
# As some models' own templates do: an answer's thoughts are set apart, a question's prefix is looked at.
THINKING = CHATML.replace(
    "message['content']",
    "('<think></think>' if '</think>' not in message.content and not message.content.startswith('/no') else '')"
    " + message['content']",
)
COUNTING = CHATML.replace(
    "message['content']", "(message.content | length if message.role == 'user' else '') ~ message['content']"
)
WORDS = ("hello", "猫", "\n", " ", "\U0001f600\U0001f600", "x" * 9, "</think>", "/no", "<|im_end|>", "end.", "user")


def random_rows(count: int, name: str) -> list[dict]:
    """Rows of 1 to 3 exchanges, padded, late tags and left-out first turns included."""
    generator = random.Random(name)
    # Rows that a template would refuse are another test's business.
    known = [word for word in WORDS if name != "thinking" or word not in ("</think>", "/no")]
    rows = []
    for index in range(count):
        texts = []
        for turn in range(2 * generator.choice((1, 1, 1, 2, 3))):
            words = [generator.choice(known) for _ in range(generator.randrange(25))]
            texts.append("".join([generator.choice(("t",) * 12 + (" ", "\n ")), *words, f"t{turn}"]))
        images = generator.choice((0, 1, 1, 2))
        for _ in range(images):
            place = generator.choice((0, 0, 0, 0, generator.randrange(len(texts))))
            texts[place] = generator.choice((f"<image>\n{texts[place]}", f"{texts[place]} <image>"))
        row = make_row(*texts, image=["a.png"] * images or None, row_id=index)
        if generator.random() < 0.1:
            row["conversations"].insert(0, {"from": "gpt", "value": "hello <image>"})
        rows.append(row)
    return rows


def measured(path: Path, rows: list[dict], template: Template, tokenizer: object, limit: int | None) -> tuple:
    """(foretold lengths, lengths of rendering each row, how many rows were rendered)."""
    path.write_text(json.dumps(rows))
    table = read_rows(path)
    rendered = []

    def tokenize(row: dict) -> object:
        return tokenize_row(row, template, tokenizer, **IMAGE, max_length=limit)

    def exact(index: int) -> int:
        rendered.append(index)
        return measure_row(table[index], template, tokenize, 4, limit)

    found = measure_rows(table, template, exact, 4, limit)
    expected = [measure_row(row, template, tokenize, 4, limit) for row in rows]
    return found, expected, len(set(rendered))


TEMPLATES: dict[str, Callable[[PreTrainedTokenizerFast], Template]] = {
    "vicuna_v1": lambda tokenizer: get_template("vicuna_v1", tokenizer),
    "llama_2": lambda tokenizer: get_template("llama_2", tokenizer, system="short"),
    "mistral": lambda tokenizer: get_template("mistral", tokenizer),
    "chat": lambda tokenizer: chat(tokenizer, CHATML),
    "stripping": lambda tokenizer: chat(tokenizer, STRIPPING),
    "thinking": lambda tokenizer: chat(tokenizer, THINKING),
}


def chat(tokenizer: PreTrainedTokenizerFast, template: str) -> Template:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return get_template("chat", other)


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_same_rows_as_by_rendering_each(name: str, chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    template = TEMPLATES[name](chatml)
    rows = random_rows(300, name)
    middle = int(np.median([len(tokenize_row(row, template, chatml, **IMAGE)["input_ids"]) for row in rows]))
    for limit in (None, middle // 2, middle - 1, middle, middle * 2, middle * 20):
        found, expected, rendered = measured(tmp_path / "rows.json", rows, template, chatml, limit)
        assert found.tolist() == expected
        if limit in (None, middle * 20):
            assert (found != DROPPED).all()
            # Only rows that stand out are rendered, and a sample.
            assert rendered < len(rows)
        elif limit == middle:
            assert 0 < (found == DROPPED).sum() < len(rows)


def test_plain(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    template = get_template("plain", chatml)
    texts = [("<image>" * (1 + index % 3) + "drop this", "  caption " + "é" * index) for index in range(200)]
    rows = [make_row(*pair, image=["a"] * (1 + index % 3)) for index, pair in enumerate(texts)]
    for limit in (None, 5, 9, 13, 14, 100):
        found, expected, rendered = measured(tmp_path / "rows.json", rows, template, chatml, limit)
        assert found.tolist() == expected
        assert rendered < 200 or limit in (5, 9, 13, 14)
    for bad in (make_row("q", "a"), make_row("<image>", "a", "q", "b", image="x")):
        with pytest.raises(DataError, match="template plain"):
            measured(tmp_path / "rows.json", [*rows, bad], template, chatml, None)


def test_few_rows_are_rendered(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [make_row("hello", "hi", row_id=index) for index in range(2000)]
    rows[777] = make_row("x" * 300, "hi")
    for name in ("vicuna_v1", "chat", "thinking"):
        _, _, rendered = measured(tmp_path / "rows.json", rows, TEMPLATES[name](chatml), chatml, 290)
        assert 1 <= rendered <= 80


def test_rows_that_hold_what_a_template_looks_for_are_rendered(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    """The template leaves everything before `</think>` out, so answers with it can't be trained on: found at once."""
    template = chat(chatml, CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"))
    rows = [make_row("hello", "hi", row_id=index) for index in range(2000)]
    found, expected, rendered = measured(tmp_path / "rows.json", rows, template, chatml, None)
    assert found.tolist() == expected
    assert rendered < 100
    rows[1234] = make_row("hello", "thoughts</think>hi")
    with pytest.raises(DataError, match="rewrites or drops an answer"):
        measured(tmp_path / "rows.json", rows, template, chatml, None)


def test_templates_that_cannot_be_foretold_are_rendered(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [make_row("hello " * (index % 30), "hi", row_id=index) for index in range(1, 200)]
    rows = [row for row in rows if row["conversations"][0]["value"].strip()]
    found, expected, rendered = measured(tmp_path / "rows.json", rows, chat(chatml, COUNTING), chatml, 60)
    assert found.tolist() == expected
    assert rendered == len(rows)


class Moody(TurnTemplate):
    """Says that no text matters, and then one does that no probe has."""

    def render(self, turns, generation_prompt=False):
        longer = turns[0].text.startswith("hello")
        return TurnTemplate(name="moody", opening="x" * 50 * longer).render(turns, generation_prompt)


def test_a_sample_is_held_against_the_forecast(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    rows = [make_row("hello", "hi", row_id=index) for index in range(200)]
    found, expected, rendered = measured(tmp_path / "rows.json", rows, Moody("moody"), chatml, None)
    assert found.tolist() == expected
    assert rendered == 200


def test_plain_lists_are_measured_row_by_row(chatml: PreTrainedTokenizerFast) -> None:
    seen = measure_rows([{}, {}, {}], get_template("mistral", chatml), lambda index: 10 * index, 4, None)
    assert seen.tolist() == [0, 10, 20]


def test_layouts_by_hand() -> None:
    template = TurnTemplate(
        "t", system="é", opening="{system}|", before_human="U:", after_human=";", header="A:", end="$"
    )
    found = find_layout(template, 4)
    assert found is not None
    # é| is 3 bytes; then "U:", ";", "A:" for each question, " " and "$" for each answer.
    assert (found.head, found.total, found.strips) == (3 + 2 + 1 + 2, 3 + 2 * (5 + 2), False)
    assert find_layout(template, 3) is None
    assert find_layout(SimpleNamespace(render=lambda turns: template.render(turns[:2])), 2) == find_layout(template, 2)  # type: ignore[arg-type]


LITERALS = {
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] }}": set(),
    "{% if '</think>' in message.content %}{{ message.content.split('<x>')[-1].lstrip('\n') }}{% endif %}": {
        "</think>", "<x>",
    },
    "{% if message['role'] == 'user' or 'a' != c %}{% endif %}": {'"user"', '"a"'},
    "{% if 'tool' not in c %}{{ raise_exception('no ' + x) }}{% endif %}": {"tool"},
    "{% if c in ['yes', 'no'] %}{{ c | replace('\\n', ' ') | trim('q') }}{% endif %}": {'"yes"', '"no"', "\n", " "},
    "{{ ('pre' + c) if c else '' }}{# 'comment' in c #}'text' in c": set(),
    "{% if c.startswith(\"<tool>\") and c.endswith('</tool>') %}{% endif %}": {"<tool>", "</tool>"},
}  # fmt: skip


@pytest.mark.parametrize("source", LITERALS)
def test_what_a_template_looks_for(source: str) -> None:
    tokens = [(kind, value) for _, kind, value in Environment().lex(source)]
    assert watched_texts(tokens) == LITERALS[source]
