"""Geo170K out of a miniature release."""

from llava_mocle.data.formats.geo170k import Geo170K, Geo170KAlignment, Geo170KQaTuning
from llava_mocle.evaluation.tasks.geoqa import GeoQA
from tests.data.formats import official_releases as releases
from tests.data.formats.official_releases import made, short


def test_alignment(tmp_path):
    releases.geo170k(tmp_path / "source")
    rows, left_out, counts = made(Geo170KAlignment(), tmp_path / "source", tmp_path)
    assert short(rows) == [("geo170k_alignment-0", "geo3k/1.png", "<image>\nWhat does the figure show?", "A triangle.")]
    assert (left_out, counts.official) == ({"its image is not there": 1}, 2)
    assert (rows[0]["dataset"], rows[0]["task_group"]) == ("geo170k_alignment", "geometry description")


def test_questions(tmp_path):
    releases.geo170k(tmp_path / "source")
    rows, left_out, counts = made(Geo170KQaTuning(), tmp_path / "source", tmp_path)
    assert short(rows) == [
        ("geo170k_qa_tuning-0", "geoqa_plus/2.png", "<image>\n∠A = 40°. Find ∠B.", "Answer: 50°"),
        ("geo170k_qa_tuning-2", "geoqa_plus/3.png", "<image>\nIs it a right angle?", "yes"),
    ]
    assert left_out == {
        "the test split asks the same of the same image": 1,
        "empty answer": 1,
        "its figure belongs to GeoQA's test split": 1,
    }
    assert counts.official == 5


def test_both_with_a_folder_of_images(tmp_path):
    """The folder that images.zip unpacks to lies where the rows look already: nothing is copied."""
    source = tmp_path
    releases.geo170k(source)
    (source / "images.zip").unlink()
    for name in ("geo3k/1.png", "geoqa_plus/2.png", "geoqa_plus/3.png", "test/0.png"):
        releases.write(source / "images" / name, releases.picture(int(name[-5])))
    before = {path: path.stat().st_ino for path in (source / "images").rglob("*.png")}
    rows, *_ = made(Geo170K(), source, tmp_path)
    assert [row["id"] for row in rows] == [
        "geo170k_alignment-0",
        "geo170k_qa_tuning-0",
        "geo170k_qa_tuning-1",
        "geo170k_qa_tuning-2",
    ]
    assert {path: path.stat().st_ino for path in (source / "images").rglob("*.png")} == before
    assert Geo170K.rows.counts == (177457,)


def test_no_row_is_asked_by_the_benchmark(tmp_path):
    source = tmp_path / "geoqa"
    releases.geo170k(source)
    releases.write(source / "images/test/0.png", releases.picture(3))
    for name in ("geo3k/1.png", "geoqa_plus/2.png", "geoqa_plus/3.png"):
        releases.write(source / "images" / name, releases.picture(int(name[-5])))
    rows, *_ = made(Geo170K(), source, tmp_path)
    asked = {
        (item.question.images[0].read_bytes(), item.question.prompt.strip())
        for item in GeoQA().items(tmp_path, "llava")
    }
    given = {
        (
            (tmp_path / "images" / row["image"]).read_bytes(),
            row["conversations"][0]["value"].replace("<image>", "").strip(),
        )
        for row in rows
    }
    # The same question and figure do stand in the official file for training.
    assert asked == {(releases.picture(3), releases.GEO_TEST_PROMPT.strip())}
    assert not asked & given
