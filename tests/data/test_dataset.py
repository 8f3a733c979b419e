import json
import logging
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import CLIPImageProcessorPil, PreTrainedTokenizerFast

from llava_mocle.data.collator import Collator
from llava_mocle.data.dataset import LlavaDataset
from llava_mocle.data.image_limits import ImageUnreadable
from llava_mocle.data.images import load_image, process_image
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.templates import get_template
from llava_mocle.data.tokenize import tokenize_row
from llava_mocle.errors import ConfigError, DataError
from tests.data.conftest import make_row

IMAGE = {"image_token_id": 9999, "image_tokens_per_image": 4}
ROWS = [
    make_row("<image>\nWhat colour?", "red", image="red.png", row_id=0),
    make_row("hello there", "hi", row_id=1),
    make_row("<image><image>\nsame?", "no", image=["red.png", "blue.jpg"], row_id=2),
]


def mixture(folder: Path, *datasets: list[dict], repeats: tuple[int, ...] = ()) -> Mixture:
    specs = []
    for number, rows in enumerate(datasets):
        path = folder / f"d{number}.json"
        path.write_text(json.dumps(rows))
        repeat = repeats[number] if repeats else 1
        specs.append(DatasetSpec(f"d{number}", str(path), str(folder), repeat))
    return Mixture.load(specs)


def dataset(
    folder: Path, tokenizer: PreTrainedTokenizerFast, processor: CLIPImageProcessorPil | None, *rows: list[dict],
    repeats: tuple[int, ...] = (), **options: object,
) -> LlavaDataset:  # fmt: skip
    made = mixture(folder, *rows, repeats=repeats)
    return LlavaDataset(made, tokenizer, processor, "chat", **IMAGE, **options)  # type: ignore[arg-type]


def test_samples(image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil) -> None:
    ids = {"d0": np.array([2, 0, 1]), "d1": [3]}
    made = dataset(image_folder, chatml, image_processor, ROWS, ROWS[:1], repeats=(1, 2), cluster_ids=ids)
    assert len(made) == 5
    assert made.has_image.tolist() == [True, False, True, True, True]
    template = get_template("chat", chatml)
    for index, row in enumerate([*ROWS, ROWS[0], ROWS[0]]):
        sample = made[index]
        expected = tokenize_row(row, template, chatml, **IMAGE)
        assert torch.equal(sample["input_ids"], expected["input_ids"])
        assert torch.equal(sample["labels"], expected["labels"])
    red, blue = (process_image(load_image(image_folder / name), image_processor) for name in ("red.png", "blue.jpg"))
    assert torch.equal(made[0]["pixel_values"], red[None])
    assert "pixel_values" not in made[1]
    assert torch.equal(made[2]["pixel_values"], torch.stack([red, blue]))
    assert [made[index]["cluster_id"] for index in range(5)] == [2, 0, 1, 3, 3]
    assert [made[index]["dataset_id"] for index in range(5)] == [0, 0, 0, 1, 1]
    for index in (5, -6):
        with pytest.raises(IndexError, match=f"sample {index} of 5"):
            made[index]


def test_lengths_are_those_of_the_samples(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    long = make_row("hi", "hello " * 200)
    for limit in (None, 100):
        made = dataset(image_folder, chatml, image_processor, [ROWS[1], long, ROWS[0], ROWS[2]], max_length=limit)
        assert made.lengths.tolist() == [len(made[index]["input_ids"]) for index in range(len(made))]
        assert made.dropped == 0
    assert made.lengths.max() == 100


def test_too_long_rows_are_left_out_and_counted(
    image_folder: Path,
    chatml: PreTrainedTokenizerFast,
    image_processor: CLIPImageProcessorPil,
    caplog: pytest.LogCaptureFixture,
) -> None:
    long_question = make_row("hello " * 100, "hi", row_id="q")
    long_answer = make_row("<image>\nq", "hello " * 100, image="red.png", row_id="a")
    late_image = make_row("q", "hello " * 100, "<image>\nq", "a", image="red.png", row_id="l")
    rows = [ROWS[0], long_question, long_answer, late_image, ROWS[1]]
    whole = dataset(image_folder, chatml, image_processor, rows)
    assert whole.dropped == 0
    with caplog.at_level(logging.WARNING):
        made = dataset(image_folder, chatml, image_processor, rows, repeats=(3,), max_length=60)
    assert made.dropped == 2
    assert len(made) == 9
    assert "left out 2 of 5 rows" in caplog.text
    samples = [made[index] for index in range(3)]
    assert torch.equal(samples[0]["input_ids"], whole[0]["input_ids"])
    assert torch.equal(samples[1]["input_ids"], whole[2]["input_ids"][:60])
    assert torch.equal(samples[2]["input_ids"], whole[4]["input_ids"])
    assert len(made.lengths) == len(made.has_image) == 9
    with pytest.raises(DataError, match="max_length 5"):
        dataset(image_folder, chatml, image_processor, rows, max_length=5)


@pytest.mark.parametrize("template", ["vicuna_v1", "mistral", "chat"])
def test_whether_a_row_fits_is_decided_exactly(
    template: str, image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    """For every limit: a row is dropped if and only if tokenizing it in full says so."""
    # Every byte of these is a token.
    row = make_row("😀" * 30 + "<image><image>", "no", image=["red.png", "blue.jpg"])
    made = mixture(image_folder, [row])
    style = get_template(template, chatml)
    labels = tokenize_row(row, style, chatml, **IMAGE)["labels"]
    first = int((labels != -100).nonzero()[0])
    for limit in range(first - 40, first + 5):
        options = {**IMAGE, "max_length": limit}
        if limit <= first:
            with pytest.raises(DataError, match="no row is left"):
                LlavaDataset(made, chatml, image_processor, style, **options)
        else:
            sample = LlavaDataset(made, chatml, image_processor, style, **options)[0]
            assert len(sample["labels"]) == min(limit, len(labels))


def test_unreadable_image_is_an_error_by_default(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    (image_folder / "red.png").write_bytes(b"no image")
    made = dataset(image_folder, chatml, image_processor, ROWS)
    with pytest.raises(
        ImageUnreadable, match=r"d0\.json: row 0 \(id 0\).*red\.png: can't be read.*corrupt_images skip"
    ):
        made[0]


@pytest.mark.parametrize("policy", ["error", "skip"])
def test_every_image_that_cannot_be_used_counts_as_corrupt(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil, policy: str
) -> None:
    """Thin ones, base64 in place of a path, a NUL, a folder: each is told with its row, or skipped."""
    Image.new("L", (1, 300_000)).save(image_folder / "thin.png")  # 16 x 4,800,000 after resizing
    names = ["thin.png", "iVBORw0KGgo" * 5000, "a\0b.png", "."]
    rows = [*(make_row("<image>\nq", "a", image=name, row_id=n) for n, name in enumerate(names)), ROWS[0]]
    made = dataset(image_folder, chatml, image_processor, rows, corrupt_images=policy, aspect_ratio="square")
    for index, name in enumerate(names):
        if policy == "skip":
            assert torch.equal(made[index]["pixel_values"], made[4]["pixel_values"])
        else:
            with pytest.raises(
                ImageUnreadable, match=rf"d0\.json: row {index} \(id {index}\).*{re.escape(name[:1])}"
            ) as caught:
                made[index]
            assert len(str(caught.value)) < 800
    assert made.skipped_images == (4 if policy == "skip" else 0)


def test_skipping_takes_the_next_sample_and_counts_rows(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    rows = [*ROWS, make_row("<image>\nq", "a", image="gone.png", row_id=3)]
    (image_folder / "red.png").write_bytes(b"no image")
    made = dataset(image_folder, chatml, image_processor, rows, repeats=(2,), corrupt_images="skip")
    assert made.skipped_images == 0
    for _ in range(2):
        assert torch.equal(made[0]["input_ids"], made[1]["input_ids"])
        assert torch.equal(made[2]["input_ids"], made[1]["input_ids"])  # 2 and 3 can't be read, 4 neither, 5 can
    assert made.skipped_images == 3
    with pytest.raises(ImageUnreadable, match="none of the samples"):
        dataset(image_folder, chatml, image_processor, rows[:1], corrupt_images="skip")[0]


def test_loader_workers_report_what_they_skipped(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    (image_folder / "red.png").unlink()
    made = dataset(image_folder, chatml, image_processor, ROWS, corrupt_images="skip")
    batches = list(DataLoader(made, batch_size=1, num_workers=1, collate_fn=Collator(0)))
    assert len(batches) == 3
    assert made.skipped_images == 2


BAD_IDS = {
    "missing dataset": ({"other": [0, 0, 0]}, "no cluster ids for dataset 'd0'"),
    "too few": ({"d0": [0, 0]}, r"shape \(2,\), expected integers of shape \(3,\)"),
    "floats": ({"d0": [0.0, 1.0, 2.0]}, "float64"),
    "negative": ({"d0": [0, -1, 0]}, "row 1 has cluster id -1"),
}


@pytest.mark.parametrize("case", BAD_IDS)
def test_bad_cluster_ids(
    case: str, image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    ids, message = BAD_IDS[case]
    with pytest.raises(DataError, match=message):
        dataset(image_folder, chatml, image_processor, ROWS, cluster_ids=ids)


def test_rows_a_template_cannot_hold_are_found_at_once(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    with pytest.raises(DataError, match=r"d0\.json: row 1 \(id 1\).*no <image>"):
        LlavaDataset(mixture(image_folder, ROWS), chatml, image_processor, "plain", **IMAGE)


def test_bad_settings(image_folder: Path, chatml: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ConfigError, match="corrupt_images is 'ignore', expected one of error, skip"):
        dataset(image_folder, chatml, None, ROWS, corrupt_images="ignore")
    with pytest.raises(ConfigError, match="no image processor"):
        dataset(image_folder, chatml, None, ROWS)
    assert "pixel_values" not in dataset(image_folder, chatml, None, ROWS[1:2])[0]


def test_fillers_have_nothing_to_learn(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    made = dataset(image_folder, chatml, image_processor, ROWS, cluster_ids={"d0": [2, 0, 1]})
    for index in range(3):
        sample, filler = made[index], made[-(index + 1)]
        assert (filler.pop("labels") == -100).all()
        assert (sample.pop("labels") != -100).any()
        assert filler.keys() == sample.keys()
        for key, value in sample.items():
            assert np.array_equal(filler[key], value), key
    (image_folder / "red.png").unlink()
    with pytest.raises(ImageUnreadable, match=r"row 0 \(id 0\)"):
        made[-1]
    made = dataset(image_folder, chatml, image_processor, ROWS, corrupt_images="skip")
    assert torch.equal(made[-1]["input_ids"], made[1]["input_ids"])
    assert (made[-1]["labels"] == -100).all()


def test_whatever_goes_wrong_names_the_row(
    image_folder: Path,
    chatml: PreTrainedTokenizerFast,
    image_processor: CLIPImageProcessorPil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = dataset(image_folder, chatml, image_processor, ROWS)

    def failing(*arguments: object) -> torch.Tensor:
        raise KeyError("odd")

    monkeypatch.setattr("llava_mocle.data.dataset.process_image", failing)
    with pytest.raises(DataError, match=r"d0\.json: row 2 \(id 2\): KeyError: 'odd'") as caught:
        made[2]
    assert isinstance(caught.value.__cause__, KeyError)
    assert made.rows_in_work() == []
    with pytest.raises(DataError, match=r"(?s)worker process 0.*d0\.json: row 0 \(id 0\): KeyError: 'odd'"):
        list(DataLoader(made, batch_size=1, num_workers=1))
    made.encoder.aspect_ratio = "round"  # type: ignore[attr-defined]
    monkeypatch.undo()
    with pytest.raises(ConfigError, match=r"d0\.json: row 0 \(id 0\): image_aspect_ratio is 'round'"):
        made[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # torch's, when the loader is dropped
def test_a_killed_worker_leaves_its_row_behind(
    image_folder: Path,
    chatml: PreTrainedTokenizerFast,
    image_processor: CLIPImageProcessorPil,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = [make_row("hello there", "hi", row_id=f"t{index}") for index in range(20)]
    deadly = make_row("<image>\nq", "a", image="blue.jpg", row_id="deadly")
    made = dataset(image_folder, chatml, image_processor, [*texts[:13], deadly, *texts[13:]])

    def dying(path: str) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr("llava_mocle.data.row_dataset.load_image", dying)
    loader = DataLoader(made, batch_size=2, num_workers=2, collate_fn=Collator(0))
    # RuntimeError ("DataLoader worker (pid ...) is killed by signal"), or one of the others where the loader was just
    # fetching a batch from the worker that died.
    with pytest.raises((RuntimeError, OSError, EOFError)):
        list(loader)
    (found,) = [line for line in made.rows_in_work() if "deadly" in line]
    assert re.fullmatch(r"process \d+: .*d0\.json: row 13 \(id 'deadly'\)", found)


@pytest.mark.slow
def test_spawned_workers_open_the_rows_themselves(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    made = dataset(image_folder, chatml, image_processor, ROWS, ROWS[:2], repeats=(1, 2))
    loader = DataLoader(made, batch_size=None, num_workers=1, multiprocessing_context="spawn", timeout=120)
    for index, sample in enumerate(loader):
        assert torch.equal(sample["input_ids"], made[index]["input_ids"])
    assert index == 6
    (image_folder / "red.png").unlink()
    made.corrupt_images = "skip"
    list(loader)
    assert made.skipped_images == 3  # counted across the processes: rows 0 and 2 of the first, row 0 of the second


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (make_row("<image>\nq", "a", row_id="x"), "1 <image> tags for 0 images"),
        (make_row("q", "a", image="red.png", row_id="x"), "0 <image> tags for 1 images"),
        (make_row("q", row_id="x"), "the last turn is human"),
    ],
)
def test_a_row_that_makes_no_sample_is_named_among_others(
    bad: dict, message: str, image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    """Rows are measured many at a time; what is given in memory has not been checked."""
    stored = mixture(image_folder, ROWS)
    made = Mixture(stored.specs, {"d0": [*ROWS, bad, bad | {"id": "later"}]})
    with pytest.raises(DataError, match=rf"d0\.json: row 3 \(id 'x'\): .*{message}"):
        LlavaDataset(made, chatml, image_processor, "vicuna_v1", **IMAGE)


def test_rows_may_be_plain_lists(
    image_folder: Path, chatml: PreTrainedTokenizerFast, image_processor: CLIPImageProcessorPil
) -> None:
    stored = mixture(image_folder, ROWS, ROWS[1:], repeats=(2, 1))
    plain = Mixture(stored.specs, {"d0": ROWS, "d1": ROWS[1:]})
    labels = dataset(image_folder, chatml, image_processor, ROWS)[2]["labels"]
    options = {**IMAGE, "max_length": int((labels != -100).nonzero()[0])}  # too short for the last row
    one, two = (LlavaDataset(made, chatml, image_processor, "chat", **options) for made in (stored, plain))
    assert len(one) == len(two) < len(stored)
    assert one.lengths.tolist() == two.lengths.tolist()
    assert one.has_image.tolist() == two.has_image.tolist()
    for index in range(len(one)):
        assert torch.equal(one[index]["input_ids"], two[index]["input_ids"])
