"""Runs beside the paper's tables."""

import pytest

from llava_mocle.analysis.benchmark_report import build_sections, to_html, to_markdown, write_benchmark_report
from llava_mocle.analysis.paper_tables import TABLE_2, TABLE_3, TABLE_4, TABLES
from llava_mocle.cli.main import main
from llava_mocle.evaluation.registry import all_tasks


def run(prompts="llava", **tasks):
    asked = {name: entry | {"settings": {"prompts": prompts}} for name, entry in tasks.items()}
    return {"kind": "benchmarks", "model_id": "m@1", "tasks": asked}


def entry(limit=None, unparsed=0, **metrics):
    return {"title": "T", "split": "s", "limit": limit, "unparsed": unparsed, "metrics": metrics}


def metric(value, low, high, items=None):
    return {"value": value, "interval": [low, high], "n": 4, "items": items}


def test_the_papers_tables_are_whole_and_name_real_benchmarks() -> None:
    known = all_tasks()
    for table in TABLES:
        assert table.compared in table.rows
        for column in table.columns:
            assert column.task in known, column
        for numbers in table.rows.values():
            assert len(numbers) == len(table.columns)
    # Spot checks against the text of the paper: a corner of each table.
    assert TABLE_2.rows["InstructBLIP 7B + MoCLE"][0] == 49.3
    assert TABLE_3.rows["InstructBLIP 7B"][-1] == 51.3
    assert TABLE_4.rows["MoCLE, all data"][-1] == 91.65
    # And every row's sum, added up from the paper apart from these tables.
    sums = [
        {name: round(sum(value for value in row if value is not None), 2) for name, row in table.rows.items()}
        for table in TABLES
    ]
    assert list(sums[0].values()) == [1746.6, 1790.3]
    assert list(sums[1].values()) == [378.2, 388.7]
    assert list(sums[2].values()) == [1937.56, 57.82, 439.56, 2401.19, 2462.48]


def test_one_run_beside_table_4() -> None:
    geoqa = entry(unparsed=2, limit=50, accuracy=metric(61.0, 55.0, 66.0))
    (section,) = build_sections({"ours": run(geoqa=geoqa)})
    assert section.title == TABLE_4.title
    names = [row.name for row in section.rows]
    assert names == [*TABLE_4.rows, "ours", "ours - paper's MoCLE, all data"]
    place = section.columns.index("GeoQA")
    ours, difference = (row.cells[place] for row in section.rows[-2:])
    assert (ours.value, ours.interval, ours.note) == (61.0, (55.0, 66.0), "first 50, 2 unparsed")
    # 61.00 - 60.21 in the paper
    assert difference.value == pytest.approx(0.79)
    assert difference.interval == pytest.approx((55.0 - 60.21, 66.0 - 60.21))
    assert all(cell.value is None for i, cell in enumerate(section.rows[-1].cells) if i != place)
    text = to_markdown([section])
    assert "| **ours** | – | – | – | 61.00 (55.00 to 66.00, first 50, 2 unparsed) |" in text
    assert "+0.79 (-5.21 to +5.79, first 50, 2 unparsed)" in text
    assert "| MoCLE, all data | 1838 | 66.07 |" in text


def test_instructblip_prompts_go_to_its_tables() -> None:
    sections = build_sections({"a": run("instructblip", gqa=entry(accuracy=metric(50.0, 45.0, 55.0)))})
    assert [section.title for section in sections] == [TABLE_2.title]


def test_table_4_follows_the_count_that_a_run_was_scored_with() -> None:
    metrics = {"open_recall": metric(40.0, 30.0, 50.0), "open_recall_legacy": metric(60.0, 50.0, 70.0)}
    strict = entry(**metrics) | {"headline": "open_recall"}
    legacy = entry(**metrics) | {"headline": "open_recall_legacy"}
    table, other = build_sections({"strict": run(vqa_rad=strict), "legacy": run(vqa_rad=legacy)})
    place = table.columns.index("RAD open")
    cells = {row.name: row.cells[place] for row in table.rows}
    assert (cells["strict"].value, cells["strict"].note) == (40.0, "")
    assert (cells["legacy"].value, cells["legacy"].note) == (60.0, "as LLaVA-Med counts")
    assert cells["legacy - strict"].value is None  # what is not counted alike is not compared
    assert {row.name for row in other.rows} == {"T: open_recall_legacy", "T: open_recall"}


def test_two_runs_are_compared_on_the_same_items() -> None:
    before = run(geoqa=entry(accuracy=metric(25.0, 0.0, 75.0, "0 0 0 1")), zoo=entry(f1=metric(1.0, 0.0, 2.0)))
    after = run(geoqa=entry(accuracy=metric(75.0, 25.0, 100.0, "1 0 1 1")), zoo=entry(f1=metric(4.0, 3.0, 5.0)))
    table, other = build_sections({"lora": before, "mocle": after})
    cell = table.rows[-1].cells[table.columns.index("GeoQA")]
    assert table.rows[-1].name == "mocle - lora"
    assert cell.value == 50.0
    # Differences of the items are 1 0 1 0: a resampled mean lies between 0 and 100, and never below.
    assert cell.interval is not None
    assert 0.0 <= cell.interval[0] < 50.0 < cell.interval[1] <= 100.0
    assert other.columns == ("lora", "mocle", "mocle - lora")
    assert [cell.value for cell in other.rows[0].cells] == [1.0, 4.0, 3.0]
    assert other.rows[0].cells[2].interval is None  # no mean of items: no paired interval


def test_html_and_files(tmp_path) -> None:
    runs = {"a<b": run(geoqa=entry(accuracy=metric(70.0, 65.0, 75.0)))}
    page = to_html(build_sections(runs))
    assert "a&lt;b" in page
    assert '<span class="up">+9.79</span>' in page
    paths = write_benchmark_report(runs, tmp_path / "report")
    assert [path.name for path in paths] == ["benchmarks.md", "benchmarks.html"]


def test_the_command(tmp_path, capsys) -> None:
    import json

    (tmp_path / "results.json").write_text(json.dumps(run(geoqa=entry(accuracy=metric(61.0, 55.0, 66.0)))))
    assert main(["report", f"mine={tmp_path}", "--output", str(tmp_path / "out")]) == 0
    assert "| **mine** |" in capsys.readouterr().out
    assert (tmp_path / "out" / "benchmarks.html").is_file()
    assert main(["report", str(tmp_path), str(tmp_path)]) == 2
    assert "two runs are named 'm'" in capsys.readouterr().err


def test_folders_and_names_may_hold_an_equals_sign(tmp_path, capsys, monkeypatch) -> None:
    import json

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


def test_runs_of_different_sizes_or_styles_are_not_compared() -> None:
    small = {"value": 50.0, "interval": [0.0, 100.0], "n": 2, "items": "0 1"}
    whole = metric(75.0, 25.0, 100.0, "1 0 1 1")
    runs = {"pilot": run(geoqa=entry(limit=2, accuracy=small)), "full": run(geoqa=entry(accuracy=whole))}
    (section,) = build_sections(runs)
    assert section.rows[-1].name == "full - pilot"
    assert section.rows[-1].cells[section.columns.index("GeoQA")].value is None
    styles = {"a": run("instructblip", gqa=entry(accuracy=whole)), "b": run(gqa=entry(accuracy=whole))}
    table, other = build_sections(styles)
    assert table.title == TABLE_2.title
    assert [row.name for row in table.rows if row.ours] == ["a", "a - paper's InstructBLIP 7B + MoCLE"]
    assert [cell.value for cell in other.rows[0].cells][:2] == [75.0, 75.0]


def test_a_second_run_of_all_wrong_has_an_interval() -> None:
    before, after = metric(75.0, 25.0, 100.0, "1 0 1 1"), metric(0.0, 0.0, 0.0, "0 0 0 0")
    (section,) = build_sections({"a": run(geoqa=entry(accuracy=before)), "b": run(geoqa=entry(accuracy=after))})
    cell = section.rows[-1].cells[section.columns.index("GeoQA")]
    assert cell.value == -75.0
    assert cell.interval is not None
    assert -100.0 <= cell.interval[0] < -75.0 < cell.interval[1] <= 0.0
