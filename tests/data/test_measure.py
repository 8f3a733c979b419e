"""Which rows fit, and how long they are; the same in one process and in several."""

import copy
import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llava_mocle.data.conversation import Template, row_images
from llava_mocle.data.dataset import LlavaEncoder
from llava_mocle.data.measure import DROPPED, measure_rows
from llava_mocle.data.templates import get_template
from llava_mocle.data.tokenize import RowTooLong, tokenize_row
from llava_mocle.errors import DataError
from tests.data.conftest import CHATML, make_row
from tests.processes import descendants, ended, wait_until_gone

ROOT = Path(__file__).parents[2]
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


def chat(tokenizer: PreTrainedTokenizerFast, template: str) -> Template:
    other = copy.deepcopy(tokenizer)
    other.chat_template = template
    return get_template("chat", other)


TEMPLATES: dict[str, Callable[[PreTrainedTokenizerFast], Template]] = {
    "vicuna_v1": lambda tokenizer: get_template("vicuna_v1", tokenizer),
    "llama_2": lambda tokenizer: get_template("llama_2", tokenizer, system="short"),
    "mistral": lambda tokenizer: get_template("mistral", tokenizer),
    "chat": lambda tokenizer: chat(tokenizer, CHATML),
    "stripping": lambda tokenizer: chat(tokenizer, STRIPPING),
    "thinking": lambda tokenizer: chat(tokenizer, THINKING),
    "counting": lambda tokenizer: chat(tokenizer, COUNTING),
}


OTHER_TOKENIZERS = ("trimming", "legacy", "modern")
CASES = [("chatml", name) for name in TEMPLATES]
CASES += [(other, name) for other in OTHER_TOKENIZERS for name in ("vicuna_v1", "llama_2", "chat")]


@pytest.fixture(scope="module")
def tokenizers(chatml: PreTrainedTokenizerFast, trimming: PreTrainedTokenizerFast, llama: SimpleNamespace) -> dict:
    return {"chatml": chatml, "trimming": trimming, "legacy": llama.legacy, "modern": llama.modern}


@dataclasses.dataclass(frozen=True)
class Measure:
    """`LlavaEncoder.measure` of these rows, as a dataset calls it."""

    rows: list[dict]
    template: Template
    tokenizer: PreTrainedTokenizerFast
    limit: int | None = None

    @cached_property
    def encoder(self) -> LlavaEncoder:
        return LlavaEncoder(self.tokenizer, None, self.template, **IMAGE, max_length=self.limit)

    def real(self, row: dict) -> int:
        """The length of the row's sample, or DROPPED where there is none."""
        try:
            tokens = tokenize_row(row, self.template, self.tokenizer, **IMAGE, max_length=self.limit)
        except RowTooLong:
            return DROPPED
        return len(tokens["input_ids"])

    def __call__(self, chunk: range) -> list[int]:
        rows = [self.rows[index] for index in chunk]
        return self.encoder.measure(rows, [row_images(row) for row in rows])


@pytest.mark.parametrize(("tokenizer", "name"), CASES)
def test_a_length_is_that_of_the_sample_and_a_row_is_dropped_exactly_if_it_has_none(
    tokenizer: str, name: str, tokenizers: dict
) -> None:
    core = tokenizers[tokenizer]
    template = TEMPLATES[name](core)
    rows = random_rows(60, name)
    lengths = measure_rows(Measure(rows, template, core), len(rows))
    assert lengths.dtype == np.int64
    assert lengths.tolist() == [Measure(rows, template, core).real(row) for row in rows]
    middle = int(np.median(lengths))
    for limit in (middle // 2, middle, middle * 2):
        measure = Measure(rows, template, core, limit)
        found = measure_rows(measure, len(rows))
        assert found.tolist() == [measure.real(row) for row in rows]
        assert found.max() <= limit
        assert 0 < (found == DROPPED).sum() < len(rows) or limit >= middle


def test_plain(chatml: PreTrainedTokenizerFast) -> None:
    template = get_template("plain", chatml)
    texts = [("<image>" * (1 + index % 3) + "drop this", "  caption " + "é" * index) for index in range(20)]
    rows = [make_row(*pair, image=["a"] * (1 + index % 3)) for index, pair in enumerate(texts)]
    whole = measure_rows(Measure(rows, template, chatml), 20).tolist()
    # Four an image, and the caption with its line's end.
    captions = [len(chatml(f"{caption}\n", add_special_tokens=False).input_ids) for _, caption in texts]
    start = int(whole[0] - 4 - captions[0])
    assert start in (0, 1)
    assert whole == [start + 4 * (1 + index % 3) + caption for index, caption in enumerate(captions)]
    # Two images (8), the start and one token of the caption fit, three images do not.
    fitting = [9 + start if index % 3 < 2 else DROPPED for index in range(20)]
    assert measure_rows(Measure(rows, template, chatml, 9 + start), 20).tolist() == fitting


def test_what_a_template_refuses_is_raised(chatml: PreTrainedTokenizerFast) -> None:
    rows = [make_row("hello", "hi"), make_row("hello", "thoughts</think>hi")]
    template = chat(chatml, CHATML.replace("message['content']", "message['content'].split('</think>')[-1]"))
    with pytest.raises(DataError, match="rewrites or drops an answer"):
        measure_rows(Measure(rows, template, chatml), 2)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Ten times the index; `bad` rows can't be measured, and with a folder the process names itself there."""

    bad: tuple[int, ...] = ()
    folder: Path | None = None
    seconds: float = 0.0

    def __call__(self, chunk: range) -> list[int]:
        return [self.one(index) for index in chunk]

    def one(self, index: int) -> int:
        if self.folder is not None:
            (self.folder / f"{os.getpid()}.worker").touch()
        time.sleep(self.seconds)
        if index in self.bad:
            raise DataError(f"row {index} is bad")
        return 10 * index


@pytest.mark.slow
def test_several_processes_give_the_same(chatml: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    measure = Measure(random_rows(800, "chat"), TEMPLATES["chat"](chatml), chatml, 60)
    assert np.array_equal(measure_rows(measure, 800, processes=2), measure_rows(measure, 800, processes=1))
    # The first bad row is named, whichever process comes to one first.
    with pytest.raises(DataError, match="row 1500 is bad"):
        measure_rows(Numbers(bad=(1500, 2001), folder=tmp_path), 2500, processes=2)
    names = {int(file.stem) for file in tmp_path.glob("*.worker")}
    assert names
    assert os.getpid() not in names


@pytest.mark.slow
def test_one_process_measures_where_several_fail(caplog: pytest.LogCaptureFixture) -> None:
    found = measure_rows(
        lambda chunk: [10 * index for index in chunk], 3000, processes=2
    )  # no lambda can be sent to a process
    assert np.array_equal(found, 10 * np.arange(3000))
    assert "rows are measured in one process: several failed" in caplog.text


def test_few_rows_start_no_process() -> None:
    assert measure_rows(lambda chunk: [10 * index for index in chunk], 3).tolist() == [0, 10, 20]
    assert measure_rows(lambda chunk: [10 * index for index in chunk], 0).tolist() == []


MEASURING = """
import sys
from pathlib import Path
from llava_mocle.data.measure import measure_rows
from tests.data.test_measure import Numbers

if __name__ == "__main__":
    measure_rows(Numbers(folder=Path(sys.argv[1]), seconds=0.001), 10_000_000, processes=2)
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_processes_end_with_the_main_one(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C goes to all processes of a terminal, SIGKILL to the main one alone."""
    program = tmp_path / "measuring.py"
    program.write_text(MEASURING)
    process = subprocess.Popen(
        [sys.executable, str(program), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        start_new_session=True,
        stderr=subprocess.PIPE,
        text=True,
    )
    with ended(process):
        until = time.time() + 120
        while len(list(tmp_path.glob("*.worker"))) < 2:
            assert process.poll() is None
            assert time.time() < until
            time.sleep(0.05)
        workers = descendants(process.pid)
        assert {int(file.stem) for file in tmp_path.glob("*.worker")} <= set(workers)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)
            _, said = process.communicate(timeout=60)
            assert said.count("Traceback") == said.count("KeyboardInterrupt") == 1, said
        else:
            process.kill()
            process.wait()
        assert wait_until_gone(workers) == []
