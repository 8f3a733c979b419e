import json

import pytest

from llava_mocle.cli.main import main
from tests.inference import tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eval_command")
    tiny.write_base(folder / "base")
    tiny.write_images(folder / "images", 3)
    rows = [
        {
            "id": number,
            "image": f"{number % 3}.png",
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}"},
                {"from": "gpt", "value": "yes" if number % 2 else "no"},
            ],
        }
        for number, question in enumerate(tiny.QUESTIONS)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder


def test_scores_a_file_of_rows(work, tmp_path, capsys):
    arguments = ["eval", "--model", str(work / "base"), "--rows", str(work / "rows.json")]
    arguments += ["--image-folder", str(work / "images"), "--train-rows", str(work / "rows.json")]
    arguments += ["--output", str(tmp_path / "out"), "--max-new-tokens", "4", "--limit", "5"]
    assert main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["domains"]["rows"]["n"] == 5
    assert results["domains"]["rows"]["majority"] | {"interval": None} == {
        "answer": "no", "n": 5, "score": 0.6, "interval": None
    }  # fmt: skip
    assert list(results["clusters"]) == ["none"]
    printed = capsys.readouterr().out
    assert "60.0" in printed
    assert str(tmp_path / "out" / "results.json") in printed.replace("\n", "")


def test_scores_the_held_out_rows_of_a_recipe(work, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    entry = f"{{name: shapes, data_path: {work / 'rows.json'}, image_folder: {work / 'images'}"
    recipe.write_text(f"datasets:\n- {entry}, eval_data_path: {work / 'rows.json'}}}\n")
    arguments = ["eval", "--model", str(work / "base"), "--recipe", str(recipe), "--output", str(tmp_path / "out")]
    assert main([*arguments, "--max-new-tokens", "2", "--limit", "2"]) == 0
    assert json.loads((tmp_path / "out" / "results.json").read_text())["domains"]["shapes"]["n"] == 2
    recipe.write_text(f"datasets:\n- {entry}}}\n")
    assert main(arguments) == 2
    assert "eval_data_path" in capsys.readouterr().err


def test_limit_must_be_positive(work, tmp_path, capsys):
    arguments = ["eval", "--model", "m", "--rows", str(work / "rows.json"), "--output", str(tmp_path)]
    assert main([*arguments, "--limit", "0"]) == 2
    assert "--limit 0" in capsys.readouterr().err
