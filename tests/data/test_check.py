"""`check_datasets`, and `llava-mocle data check` around it."""

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.cli.main import main
from llava_mocle.data.check import DatasetReport, check_datasets
from llava_mocle.data.mixture import DatasetSpec
from tests.data.conftest import make_row


def spec(folder: Path, rows: list, name: str = "set", **options: object) -> DatasetSpec:
    path = folder / f"{name}.json"
    path.write_text(json.dumps(rows))
    return DatasetSpec(name, str(path), str(folder), **options)  # type: ignore[arg-type]


def good_rows() -> list[dict]:
    return [
        make_row("<image>\nq", "a", image="red.png", row_id="r0"),
        make_row("<image>\nq", "a", "q", "a", image="red.png", row_id="r1"),
        make_row("q", "a", row_id=2),
        make_row("<image><image>", "a", image=["red.png", "blue.jpg"], row_id=3),
    ]


def fine(reports: list[DatasetReport]) -> bool:
    return not any(report.problems for report in reports)


def test_counts_of_good_rows(image_folder: Path) -> None:
    calls = []
    progress = lambda *call: calls.append(call)  # noqa: E731
    (found,) = check_datasets([spec(image_folder, good_rows(), repeat=3)], progress=progress)
    assert (found.rows, found.images, found.text_only, found.turns) == (4, 2, 1, 10)
    assert found.problems == found.remarks == []
    assert calls == [("set", 1, 2), ("set", 2, 2)]


def test_every_kind_of_problem(image_folder: Path) -> None:
    (image_folder / "blue.jpg").write_bytes(b"no image")
    unknown_role = make_row("q", "a", row_id=5)
    unknown_role["conversations"][0]["from"] = "user"
    late_start = make_row("q", "a", row_id=6)
    late_start["conversations"].insert(0, {"from": "gpt", "value": "hi"})
    rows = [
        *good_rows(),
        make_row("<image>\nq", "a", image="gone.png", row_id=4),
        unknown_role,
        late_start,
        make_row("q", "a", row_id="r0"),
        make_row("q", "", row_id=8),
        make_row("<image>\nq", "a", row_id=9),
        {"id": 10, "image": 3},
        "text",
        {"conversations": make_row("q", "a")["conversations"]},
    ]
    (found,) = check_datasets([spec(image_folder, rows)])
    assert found.by_kind == {
        "corrupt image": 1, "missing image": 1, "unknown role": 1, "duplicate id": 1, "empty answer": 1,
        "image count": 1, "missing key": 1, "wrong type": 2,
    }  # fmt: skip
    places = {problem.kind: (problem.row, problem.row_id) for problem in found.problems}
    assert places["corrupt image"] == (3, 3)
    assert places["missing image"] == (4, 4)
    assert places["duplicate id"] == (7, "r0")
    assert {remark.kind for remark in found.remarks} == {"first turn not human", "no id"}


def test_every_row_of_a_bad_image_is_named(image_folder: Path) -> None:
    (image_folder / "red.png").unlink()
    (found,) = check_datasets([spec(image_folder, good_rows())])
    assert [problem.row for problem in found.problems] == [0, 1, 3]
    assert "red.png: no such image" in found.problems[0].describe()
    assert fine(check_datasets([spec(image_folder, good_rows())], images=False))


def test_paths_that_cannot_be_looked_up_are_missing_images_of_their_rows(image_folder: Path) -> None:
    (image_folder / "sub").mkdir()
    paths = ["iVBORw0KGgo" * 5000, "a\0b.png", "sub", "red.png/a.png", "two\nlines.png"]
    rows = [make_row("<image>\nq", "a", image=path, row_id=number) for number, path in enumerate(paths)]
    (found,) = check_datasets([spec(image_folder, rows)])
    assert [(problem.row, problem.kind) for problem in found.problems] == [(n, "missing image") for n in range(5)]
    reasons = [
        "file name too long",
        "embedded null byte",
        "it is a folder",
        "not a directory",
        "no such file or direct",
    ]
    for problem, reason in zip(found.problems, reasons, strict=True):
        assert reason in problem.describe()
        assert len(problem.describe()) < 600
        assert problem.describe().isprintable()


def test_thin_images_are_listed(image_folder: Path) -> None:
    """With `square`, 1 x 6000 would become 336 x 2,016,000; with `pad`, 6000 x 6000. 1 x 20000 is too thin for both."""
    Image.new("L", (1, 6000)).save(image_folder / "thin.png")
    Image.new("L", (20_000, 1)).save(image_folder / "thinner.png")
    names = ["red.png", "thin.png", "thinner.png"]
    rows = [make_row("<image>\nq", "a", image=name, row_id=number) for number, name in enumerate(names)]
    limit = "image over a limit"
    for ratio, problems, remarks in (("pad", [2], [1]), ("square", [1, 2], [])):
        (found,) = check_datasets([spec(image_folder, rows)], aspect_ratio=ratio)
        assert [(problem.row, problem.kind) for problem in found.problems] == [(row, limit) for row in problems]
        assert [(remark.row, remark.kind) for remark in found.remarks] == [(row, limit) for row in remarks]
        assert f"image_aspect_ratio {ratio}" in found.problems[0].describe()


def test_ids_may_repeat_across_datasets_or_when_allowed(image_folder: Path) -> None:
    first, second = spec(image_folder, good_rows(), "one"), spec(image_folder, good_rows(), "two")
    assert fine(check_datasets([first, second]))
    doubled = spec(image_folder, good_rows() * 2, "doubled")
    assert check_datasets([doubled])[0].by_kind == {"duplicate id": 4}
    allowed = check_datasets([doubled], allow_duplicate_ids=True)
    assert fine(allowed)
    assert len(allowed[0].remarks) == 4


def test_held_out_rows_are_checked_and_a_broken_file_does_not_stop_the_rest(image_folder: Path) -> None:
    held_out = image_folder / "held_out.jsonl"
    held_out.write_text('{"id": 1')
    good = spec(image_folder, good_rows(), "good")
    reports = check_datasets([spec(image_folder, good_rows(), "broken", eval_data_path=str(held_out)), good])
    assert [(found.name, len(found.problems)) for found in reports] == [
        ("broken", 0), ("broken (held out)", 1), ("good", 0),
    ]  # fmt: skip
    assert "line 1" in reports[1].problems[0].describe()


def test_command_on_good_rows(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = spec(image_folder, good_rows())
    assert main(["data", "check", "--rows", rows.data_path, "--image-folder", str(image_folder)]) == 0
    assert "none" in capsys.readouterr().out


def test_command_names_the_first_offenders_and_fails(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (image_folder / "red.png").unlink()
    before = sorted(image_folder.iterdir())
    rows = spec(image_folder, good_rows())
    arguments = ["data", "check", "--rows", rows.data_path, "--image-folder", str(image_folder), "--limit", "2"]
    assert main(arguments) == 1
    out = capsys.readouterr().out
    assert "missing image: 3" in out
    assert f"{rows.data_path}: 3 problems" in out
    assert "[missing image] row 0 (id 'r0'), image: found" in out
    assert "and 1 more" in out
    assert sorted(image_folder.iterdir()) == sorted([*before, Path(rows.data_path)])
    assert "No --image-folder" not in out
    assert main([*arguments, "--no-images"]) == 0
    assert main(arguments[:4]) == 1
    assert f"No --image-folder was given, so images were looked for from {Path.cwd()}." in capsys.readouterr().out


def test_command_on_a_recipe(image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = spec(image_folder, good_rows(), "natural")
    recipe = image_folder / "recipe.yaml"
    entry = {"name": "natural", "data_path": rows.data_path, "image_folder": str(image_folder), "repeat": 2}
    recipe.write_text(json.dumps({"datasets": [entry]}))
    assert main(["data", "check", str(recipe)]) == 0
    assert "natural" in capsys.readouterr().out
    Image.new("RGB", (2, 2)).save(image_folder / "red.png")
    (image_folder / "blue.jpg").write_bytes(b"")
    assert main(["data", "check", str(recipe)]) == 1
    Image.new("L", (6000, 1)).save(image_folder / "red.png")
    Image.new("L", (8, 8)).save(image_folder / "blue.jpg")
    assert main(["data", "check", str(recipe)]) == 0
    recipe.write_text(json.dumps({"datasets": [entry], "image_aspect_ratio": "square"}))
    assert main(["data", "check", str(recipe)]) == 1


@pytest.mark.parametrize(
    "arguments", [[], ["r.yaml", "--rows", "x.json"], ["r.yaml", "--image-folder", "x"], ["nowhere.yaml"]]
)
def test_command_with_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: ")
