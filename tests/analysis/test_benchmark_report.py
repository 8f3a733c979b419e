"""The report of runs as Markdown and HTML, and the command that writes it."""

import json

from llava_mocle.analysis.benchmark_report import to_html, to_markdown, write_report_files
from llava_mocle.analysis.benchmark_sections import build_sections
from llava_mocle.cli.main import main
from tests.analysis.runs import entry, metric, run


def test_html_and_files(tmp_path) -> None:
    runs = {"a<b": run(geoqa=entry(accuracy=metric(70.0, 65.0, 75.0)))}
    page = to_html(build_sections(runs))
    assert "a&lt;b" in page
    assert '<span class="up">+9.79</span>' in page
    noted = entry(accuracy=metric(70.0, 65.0, 75.0), official_n=754, title="<GeoQA>")
    sections = build_sections({"a": run(geoqa=noted)})
    assert "<p>† a, &lt;GeoQA&gt; (s): 4 questions; n differs from the published 754.</p>" in to_html(sections)
    assert "\n\n† a, <GeoQA> (s): 4 questions; n differs from the published 754.\n" in to_markdown(sections)
    paths = write_report_files(build_sections(runs), tmp_path / "report", "benchmarks")
    assert [path.name for path in paths] == ["benchmarks.md", "benchmarks.html"]


def test_the_command(tmp_path, capsys) -> None:
    (tmp_path / "results.json").write_text(json.dumps(run(geoqa=entry(accuracy=metric(61.0, 55.0, 66.0)))))
    assert main(["report", f"mine={tmp_path}", "--output", str(tmp_path / "out")]) == 0
    assert "| **mine** |" in capsys.readouterr().out
    assert (tmp_path / "out" / "benchmarks.html").is_file()
    assert main(["report", str(tmp_path), str(tmp_path)]) == 2
    assert "two runs are named 'm'" in capsys.readouterr().err


def test_folders_and_names_may_hold_an_equals_sign(tmp_path, capsys, monkeypatch) -> None:
    folder = tmp_path / "runs" / "lr=1e-4" / "eval"
    folder.mkdir(parents=True)
    (folder / "results.json").write_text(json.dumps(run(geoqa=entry(accuracy=metric(61.0, 55.0, 66.0)))))
    monkeypatch.chdir(tmp_path)
    # The name of a folder alone is the model's.
    for word, name in (
        ("runs/lr=1e-4/eval", "m"),
        (str(folder), "m"),
        ("runs/lr=1e-4/eval/results.json", "m"),
        ("mine=runs/lr=1e-4/eval", "mine"),
        ("lr=2=runs/lr=1e-4/eval", "lr=2"),
    ):
        assert main(["report", word]) == 0
        assert f"| **{name}** |" in capsys.readouterr().out
    for word, place in (("runs/lr=1e-4/evil", "runs/lr=1e-4/evil"), ("a=runs/lr=2", "runs/lr=2"), ("b=", "b=")):
        assert main(["report", word]) == 2
        assert f"{place}: no results there" in capsys.readouterr().err
