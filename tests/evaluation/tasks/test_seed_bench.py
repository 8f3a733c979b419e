import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.seed_bench import FILE, SeedBench, SeedBenchImage
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, make_images

FRAMES = "seed_bench/SEED-Bench-video-image"
VIDEOS = [f"{FRAMES}/10_v1738.png", *(f"{FRAMES}/11_v1962/{number}.png" for number in (1, 2, 3))]


def root_with_pictures(tmp_path):
    root = data_root(tmp_path, "seed_bench")
    for name in ("1454426_2591111986", "77_88"):  # officially without an ending
        make_images(root / f"{name}.png")
        (root / "seed_bench/SEED-Bench-image").mkdir(exist_ok=True)
        (root / f"{name}.png").rename(root / "seed_bench/SEED-Bench-image" / name)
    make_images(*(root / video for video in VIDEOS))
    return root


def test_images_and_frames(tmp_path):
    root = root_with_pictures(tmp_path)
    items = SeedBench().items(root)
    SeedBench().check(root)
    assert [item.question.question_id for item in items] == [101669, 5, "v1738", "v1962"]
    assert items[0].question.prompt == (
        "How many towels are there?\nA. One\nB. Two\nC. Three\nD. Four\n"
        "Answer with the option's letter from the given choices directly."
    )
    shown = [[str(path.relative_to(root)) for path in item.question.images] for item in items]
    assert shown == [
        ["seed_bench/SEED-Bench-image/1454426_2591111986"],
        ["seed_bench/SEED-Bench-image/77_88"],
        VIDEOS[:1],
        VIDEOS[1:],
    ]
    assert all(path.is_file() for item in items for path in item.question.images)
    paper = SeedBench().items(root, "instructblip")
    assert paper[1].question.prompt == (
        "Question: Which colour is the wall? Options: (a) red (b) blue (c) green (d) café au lait. Short answer:"
    )
    assert paper[1].question.candidates == ("red", "blue", "green", "café au lait")


def test_images_alone_need_no_videos(tmp_path):
    root = data_root(tmp_path, "seed_bench")
    items = SeedBenchImage().items(root)
    assert [item.question.question_id for item in items] == [101669, 5]
    scores = SeedBenchImage().score(items, answers_to(items, ["A", "C"]))
    assert list(scores.metrics) == [
        "accuracy",
        "accuracy_image",
        "accuracy_Instances Counting",
        "accuracy_Instance Attributes",
    ]


def test_scores_and_submission(tmp_path):
    items = SeedBench().items(root_with_pictures(tmp_path))
    # The answer must be the letter itself, as in LLaVA's scorer.
    answers = answers_to(items, [" A\n", "D. café au lait", "A", "C"])
    scores = SeedBench().score(items, answers)
    assert scores.metrics["accuracy"].items == (1, 0, 0, 1)
    assert scores.metrics["accuracy_image"].value == 50
    assert scores.metrics["accuracy_video"].value == 50
    assert scores.metrics["accuracy_Action Prediction"].value == 100
    assert scores.unparsed == 1
    (path,) = SeedBench().submission(items, answers, tmp_path / "upload")
    assert [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] == [
        {"question_id": "101669", "prediction": "A"},
        {"question_id": "5", "prediction": "D. café au lait"},
        {"question_id": "v1738", "prediction": "A"},
        {"question_id": "v1962", "prediction": "C"},
    ]


def test_ranked(tmp_path):
    items = SeedBench().items(root_with_pictures(tmp_path), "instructblip")
    ranked = [[-1, -2, -3, -4], [-1, -2, -3, -4], [-3, -1, -2, -4], [-1, -2, -1, -4]]
    answers = answers_to(items, ["One", "red", "catching it", "fill pan"], ranked)
    assert SeedBench().score(items, answers).metrics["accuracy"].items == (1, 0, 1, 0)
    (path,) = SeedBench().submission(items, answers, tmp_path / "upload")
    assert [json.loads(line)["prediction"] for line in path.read_text().splitlines()] == ["A", "A", "B", "A"]


def test_bad_files(tmp_path):
    root = root_with_pictures(tmp_path)
    edited(root / FILE, '"data_type": "video", "question": "What follows?"', '"data_type": "Video", "question": "x"')
    with pytest.raises(DataError, match=r"record 3: field 'data_type' is 'Video', expected image or video"):
        SeedBench().items(root)
    for video in VIDEOS[1:]:
        (root / video).unlink()
    edited(root / FILE, '"Video"', '"video"')
    with pytest.raises(DataError, match="11_v1962 holds no frames"):
        SeedBench().items(root)
