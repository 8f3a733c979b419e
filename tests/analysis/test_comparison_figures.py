"""Figures and page of a comparison, from runs whose answers are a stand-in's."""

import base64
import csv
import re
from pathlib import Path

import pytest
from PIL import Image

from llava_mocle.analysis.comparison_figures import plot_comparison
from llava_mocle.analysis.comparison_report import write_comparison
from llava_mocle.analysis.experiment_page import write_experiment_page
from llava_mocle.cli.main import main
from tests.experiment.experiments import fake_executor, open_experiment, write_design
from tests.tiny_run import mix  # noqa: F401


@pytest.fixture
def result(tmp_path: Path, mix) -> dict:  # noqa: F811
    universal = {"without": {"adapter": "cluster"}, "top-2": {"adapter": "cluster", "top_k": 2}}
    ablations = {"K": {"num_clusters": [1, 2]}, "universal": universal}
    experiment = open_experiment(write_design(tmp_path, mix, seeds=2, ablations=ablations))
    experiment.carry_out(fake_executor(tmp_path), "none")
    found = experiment.result()
    write_comparison(found, tmp_path)
    return found


def test_every_figure_has_its_numbers_and_a_caption(tmp_path: Path, result: dict) -> None:
    paths = plot_comparison(result, tmp_path / "figures")
    assert [path.name for path in paths] == ["methods_validation.png", "ablations_validation.png"]
    for path in paths:
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.with_suffix(".svg").read_text().lstrip().startswith("<?xml")
        assert "To see:" in path.with_suffix(".txt").read_text()
    lines = list(csv.DictReader((tmp_path / "figures" / "methods_validation.csv").open()))
    assert [(line["method"], line["domain"]) for line in lines[:3]] == [
        ("single_domain", "pictures"), ("single_domain", "sums"), ("single_domain", "mean"),
    ]  # fmt: skip
    assert {line["score"] for line in lines} == {"0.6"}  # three of five questions
    lines = list(csv.DictReader((tmp_path / "figures" / "ablations_validation.csv").open()))
    assert [line["label"] for line in lines[::3]] == ["1", "2", "top-2", "without"]
    # Means are joined where values have an order (K), and not where they are words; the second line is the legend's.
    assert paths[1].with_suffix(".svg").read_text().count("stroke-width: 2.4") == 2


def test_many_ablations_take_several_rows(tmp_path: Path, result: dict) -> None:
    found = result["splits"]["validation"]["ablations"]
    many = {f"{name} {n}": entries for n in range(3) for name, entries in found.items()}
    result["splits"]["validation"]["ablations"] = many
    (path,) = [path for path in plot_comparison(result, tmp_path / "figures") if path.stem.startswith("ablations")]
    with Image.open(path) as wide:
        assert 1.5 < wide.width / wide.height < 3.5  # six panels, five a row
    svg = path.with_suffix(".svg").read_text()
    assert all(f"<!-- {name} -->" in svg for name in many)


def test_a_result_without_runs_draws_nothing(tmp_path: Path, mix) -> None:  # noqa: F811
    assert plot_comparison(open_experiment(write_design(tmp_path, mix)).result(), tmp_path / "figures") == []


def test_the_page_holds_everything(tmp_path: Path, result: dict) -> None:
    figures = tmp_path / "figures"
    (picture,) = [path for path in plot_comparison(result, figures) if path.stem.startswith("methods")]
    (figures / "clusters.svg").write_text("<svg/>")  # of another command; without a PNG
    (figures / "clusters.txt").write_text("Which clusters < there are")
    page = write_experiment_page(tmp_path).read_text()
    assert base64.b64encode(picture.read_bytes()).decode() in page
    assert base64.b64encode(b"<svg/>").decode() in page
    assert "Which clusters &lt; there are" in page
    assert "Is there negative transfer in this data" in page
    assert len(re.findall("<table>", page)) == 7  # scores, two of differences, shares, two ablations, costs
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)  # no network


def test_the_command(tmp_path: Path, result: dict, capsys: pytest.CaptureFixture) -> None:
    assert main(["report", str(tmp_path), "--html"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "report.html")
    (tmp_path / "none").mkdir()
    assert main(["report", str(tmp_path / "none"), "--html"]) == 2
    assert "comparison.json: no such file; give the output_dir of a `llava-mocle compare`" in capsys.readouterr().err
