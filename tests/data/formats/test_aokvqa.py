import json
import shutil
from pathlib import Path

import pytest

from llava_mocle.data.formats.aokvqa import AokVqa, AokVqg
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.aokvqa import AokVqaChoice
from tests.data.formats.instruct_rows import exchanges, made, write_images
from tests.data.formats.official_releases import write_json
from tests.evaluation.tasks.official_files import FILES, data_root

FILE = "aokvqa/aokvqa_v1p0_train.json"


def record(**changes) -> dict:
    return {
        "split": "train",
        "image_id": 42,
        "question_id": "22aA",
        "question": "What keeps the Kite up?",
        "choices": ["rope", "wind", "magnet", "Café"],
        "correct_choice_idx": 1,
        "direct_answers": ["wind"] * 9 + ["the wind"],
        **changes,
    }


def release(tmp_path: Path, *records: dict) -> Path:
    source = tmp_path / "official"
    write_json(source / FILE, records)
    write_images(source / "coco/train2017", "000000000042.jpg")
    return source


def test_multiple_choice(tmp_path: Path) -> None:
    source = release(tmp_path, record(), record(question_id="22bB", image_id=43))
    rows, left_out = made(AokVqa(), source)
    assert [row["image"] for row in rows] == ["coco/train2017/000000000042.jpg"]
    assert left_out == {"its image is not there": 1}
    (pairs,) = exchanges(AokVqa(), source, 10).values()
    assert {answer for _, answer in pairs} == {"wind"}
    options = "what keeps the kite up? Options: (a) rope (b) wind (c) magnet (d) Café"
    assert [request for request, _ in pairs] == [
        options,
        f"Question: {options}",
        f"{options}, A short answer to the question is",
        f"Q: {options}, A:",
        f"Question: {options}, Short answer:",
        f"Given the image, answer the following question with no more than three words. {options}",
        f"Based on the image, respond to this question with a short answer: {options}. Answer:",
        f"Use the provided image to answer the question: {options}, Provide your answer as short as possible:",
        f'What is the answer to the following question? "{options}"',
        f'The question "{options}" can be answered using the image. A short answer is',
    ]


def test_options_as_the_benchmark_lists_them(tmp_path: Path) -> None:
    """Training and evaluation write the same list of options."""
    request = exchanges(AokVqa(), release(tmp_path, record()), 10)["22aA"][4][0]
    asked = AokVqaChoice().items(data_root(tmp_path, "aokvqa"), "instructblip")[0].question.prompt
    listed = asked.removeprefix("Question: What keeps the kite up? ").removesuffix(". Short answer:")
    assert listed == "Options: (a) rope (b) wind (c) magnet (d) water"
    assert f"{listed.removesuffix('water')}Café" in request


def test_questions_to_be_asked(tmp_path: Path) -> None:
    (pairs,) = exchanges(AokVqg(), release(tmp_path, record(direct_answers=["wind"])), 6).values()
    assert pairs[2] == (
        'Given the visual representation, create a question for which the answer is "wind".',
        "what keeps the kite up?",
    )


@pytest.mark.parametrize("form", [AokVqa(), AokVqg()])
def test_other_splits_are_refused(tmp_path: Path, form) -> None:
    source = release(tmp_path, record(split="val"))
    with pytest.raises(DataError, match="record 0: field 'split' is 'val', expected train"):
        made(form, source)
    shutil.copy(FILES / "aokvqa/aokvqa_v1p0_val.json", source / FILE)
    with pytest.raises(DataError, match="expected train"):
        made(form, source)


def test_a_choice_that_is_not_there(tmp_path: Path) -> None:
    source = release(tmp_path, record(correct_choice_idx=4))
    with pytest.raises(DataError, match="correct_choice_idx is 4 with 4 choices"):
        made(AokVqa(), source)


def test_no_row_is_of_the_benchmark(tmp_path: Path) -> None:
    rows, _ = made(AokVqa(), release(tmp_path, record()), variants=10)
    items = AokVqaChoice().items(data_root(tmp_path, "aokvqa"), "instructblip")
    # COCO numbers its photos across splits: the folder tells train2017 from val2017.
    tested = {"/".join(path.parts[-2:]) for item in items for path in item.question.images}
    assert "val2017/000000000042.jpg" in tested
    assert not tested & {"/".join(Path(row["image"]).parts[-2:]) for row in rows}
    assert json.loads((FILES / "aokvqa/aokvqa_v1p0_val.json").read_text())[0]["split"] == "val"
