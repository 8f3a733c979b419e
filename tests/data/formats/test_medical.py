"""VQA-RAD, SLAKE and PathVQA out of miniature releases; the rows are worked by hand."""

import hashlib

import pytest

from llava_mocle.data.conversation import marked_prompt, place_images
from llava_mocle.data.formats.medical import MedMix, PathVqa, Slake, VqaRad
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks import medical_qa
from tests.data.formats import official_releases as releases
from tests.data.formats.official_releases import made, short


def test_vqa_rad_of_the_authors(tmp_path):
    releases.vqa_rad(tmp_path / "source")
    rows, left_out, counts = made(VqaRad(), tmp_path / "source", tmp_path)
    assert short(rows) == [
        ("vqa_rad-0", "vqa_rad/a.jpg", "<image>\nIs there a fracture?", "Yes"),
        ("vqa_rad-1", "vqa_rad/a.jpg", "<image>\nHow many ribs are broken?", "2"),
        ("vqa_rad-4", "vqa_rad/b.jpg", "<image>\nGröße des Herzens?", "vergrößert – 心"),
    ]
    assert rows[0] == {
        "id": "vqa_rad-0",
        "dataset": "vqa_rad",
        "task_group": "medical VQA",
        "image": "vqa_rad/a.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nIs there a fracture?"},
            {"from": "gpt", "value": "Yes"},
        ],
        "qid": "1",
        "answer_type": "CLOSED",
    }
    assert left_out == {
        "it belongs to the test split": 2,
        "the test split asks the same of the same image": 1,
        "its image is not there": 1,
        "its answer is empty": 1,
        "its question is empty": 1,
    }
    # Seven training records; the two of the test split do not count.
    assert (counts.official, counts.images) == (7, 2)
    assert (tmp_path / "images/vqa_rad/b.jpg").read_bytes() == releases.picture(2, "JPEG")


def test_vqa_rad_out_of_parquet(tmp_path):
    releases.write_parquet(tmp_path / "source/data/train-0.parquet", [(releases.picture(1), "is it normal?", "no")])
    rows, left_out, counts = made(VqaRad(), tmp_path / "source", tmp_path)
    name = f"vqa_rad/{hashlib.sha256(releases.picture(1)).hexdigest()[:24]}.png"
    assert short(rows) == [("vqa_rad-train-0", name, "<image>\nis it normal?", "no")]
    assert (left_out, counts.official) == ({}, 1)


def test_english_of_slake(tmp_path):
    releases.slake(tmp_path / "source")
    rows, left_out, counts = made(Slake(), tmp_path / "source", tmp_path)
    assert short(rows) == [
        ("slake-train-0", "slake/xmlab1/source.jpg", "<image>\nWhich organs are there?", "Heart, Lung"),
        ("slake-train-2", "slake/xmlab2/source.jpg", "<image>\nIs the lung healthy?", "No"),
    ]
    assert left_out == {
        "it is not in English": 1,
        "its image is not there": 1,
        "its answer is empty": 1,
        "the test split asks the same of the same image": 1,
    }
    assert counts.official == 5
    # Only what the rows show is unpacked.
    assert not (tmp_path / "images/slake/xmlab3").exists()


def test_pathvqa(tmp_path):
    releases.pathvqa(tmp_path / "source")
    rows, left_out, counts = made(PathVqa(), tmp_path / "source", tmp_path)
    first, last = rows[0]["image"], rows[2]["image"]
    assert short(rows) == [
        ("pathvqa-train-0", first, "<image>\nwhere are liver stem cells located?", "in the canals of hering"),
        ("pathvqa-train-1", first, "<image>\nare they stained?", "yes"),
        ("pathvqa-train-6", last, "<image>\nist dies ein Ödem?", "ja"),
    ]
    assert left_out == {
        "its answer is empty": 1,
        "its image is not there": 1,
        "its image is in no format that is known": 1,
        "the test split asks the same of the same image": 1,
    }
    # The image of two questions is written once; one of a record that is left out for its answer is not written.
    assert (counts.official, counts.images) == (7, 2)
    assert (tmp_path / "images" / first).read_bytes() == releases.picture(1, "JPEG")
    assert first.endswith(".jpg")
    assert last.endswith(".png")


def test_the_mix_has_all_three(tmp_path):
    for name in ("vqa_rad", "slake", "pathvqa"):
        releases.RELEASES[name](tmp_path / "source" / name)
    rows, left_out, counts = made(MedMix(), tmp_path / "source", tmp_path)
    assert [row["dataset"] for row in rows] == ["vqa_rad"] * 3 + ["slake"] * 2 + ["pathvqa"] * 3
    assert left_out["the test split asks the same of the same image"] == 3
    assert counts.official == 7 + 5 + 7
    assert MedMix.rows.counts == (1797 + 4919 + 19654, 1793 + 4919 + 19654)


def test_pickles_are_not_read(tmp_path):
    releases.write(tmp_path / "pvqa/qas/train_qa.pkl", b"anything")
    with pytest.raises(DataError, match=r"train_qa\.pkl: a pickle could run any program, so it is not read"):
        PathVqa().form(tmp_path)


@pytest.mark.parametrize(
    ("form", "release", "missing"),
    [
        (VqaRad(), releases.vqa_rad, "VQA_RAD Dataset Public.json"),
        (Slake(), releases.slake, "imgs.zip"),
    ],
)
def test_missing_files_are_named(tmp_path, form, release, missing):
    release(tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(DataError, match=f"lacks {missing[:4]}.*`llava-mocle data make {form.name}` says where"):
        form.form(tmp_path)


def test_a_number_in_place_of_a_question(tmp_path):
    releases.write_json(
        tmp_path / "source/train.json",
        [releases.slake_record(0, "a/source.jpg", 3, "No")],  # type: ignore[arg-type]
    )
    (tmp_path / "source/imgs").mkdir()
    with pytest.raises(DataError, match=r"train\.json, record 0: field 'question' is 3, expected a text"):
        made(Slake(), tmp_path / "source", tmp_path)


def as_prompted(text):
    """A human turn as a template takes it."""
    return place_images(marked_prompt(text, 1))


@pytest.mark.parametrize(
    ("form", "task"),
    [(VqaRad(), medical_qa.VqaRad()), (Slake(), medical_qa.Slake()), (PathVqa(), medical_qa.PathVqa())],
)
def test_no_row_is_asked_by_the_benchmark(tmp_path, form, task):
    """As evaluation reads the test split: nothing in common, though each miniature has one such training record."""
    source = tmp_path / task.folder
    releases.RELEASES[form.name](source)
    rows, left_out, _ = made(form, source, tmp_path)
    assert left_out["the test split asks the same of the same image"] == 1
    if form.name == "slake":
        releases.write(source / "imgs/xmlab3/source.jpg", releases.picture(3, "JPEG"))
    if form.name == "pathvqa":  # evaluation takes LLaVA-Med's rows of the same records
        turns = [{"from": "human", "value": "Is this seen at autopsy?"}, {"from": "gpt", "value": "yes"}]
        row = {"id": "1", "image": "1.png", "answer_type": "CLOSED", "conversations": turns}
        releases.write_json(source / "test.json", [row])
        releases.write(source / "images/1.png", releases.picture(3))

    def key(image, text):
        return image.read_bytes(), " ".join(as_prompted(text).casefold().split())

    questions = [item.question for item in task.items(tmp_path, "llava")]
    asked = {key(question.images[0], question.prompt) for question in questions}
    given = {key(tmp_path / "images" / row["image"], row["conversations"][0]["value"]) for row in rows}
    assert asked
    assert given
    assert not asked & given


def test_rows_and_benchmark_have_the_same_prompt(tmp_path):
    """SLAKE's miniature asks the same question in both splits, about different images."""
    releases.slake(tmp_path / "slake")
    (tmp_path / "slake/imgs").mkdir()
    rows, *_ = made(Slake(), tmp_path / "slake", tmp_path)
    (item,) = medical_qa.Slake().items(tmp_path, "llava")
    assert as_prompted(item.question.prompt) == as_prompted(rows[1]["conversations"][0]["value"])
    assert as_prompted(item.question.prompt) == "<image>\nIs the lung healthy?"
