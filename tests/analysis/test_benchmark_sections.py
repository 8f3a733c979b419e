"""Runs beside the paper's tables: which numbers, which differences, and what is said of them."""

import pytest

from llava_mocle.analysis.benchmark_report import to_markdown
from llava_mocle.analysis.benchmark_sections import build_sections
from llava_mocle.analysis.paper_tables import TABLE_2, TABLE_3, TABLE_4, TABLES
from llava_mocle.evaluation.registry import all_tasks
from tests.analysis.runs import entry, metric, run


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


@pytest.mark.parametrize(
    ("prompts", "task", "values", "place", "expected"),
    [
        # The paper's 1202.9 is of MME's perception alone in Table 2, and its 1804 of both parts in Table 4.
        ("instructblip", "mme", {"total": 1500.0, "perception": 1200.0, "cognition": 300.0}, "MME", 1200.0),
        ("llava", "mme", {"total": 1500.0, "perception": 1200.0, "cognition": 300.0}, "MME", 1500.0),
        # ScienceQA is asked with its images alone in both.
        ("instructblip", "scienceqa", {"accuracy_img": 60.0, "accuracy": 70.0}, "ScienceQA", 60.0),
        ("llava", "scienceqa", {"accuracy_img": 60.0, "accuracy": 70.0}, "SQA", 60.0),
    ],
)
def test_which_metric_a_column_takes(prompts, task, values, place, expected) -> None:
    metrics = {name: metric(value, value - 1, value + 1) for name, value in values.items()}
    section, other = build_sections({"ours": run(prompts, **{task: entry(**metrics)})})
    (row,) = [row for row in section.rows if row.name == "ours"]
    assert row.cells[section.columns.index(place)].value == expected
    assert len(other.rows) == len(values) - 1


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


def test_runs_of_different_sizes_or_styles_are_not_compared() -> None:
    small = {"value": 50.0, "interval": [0.0, 100.0], "n": 2, "items": "0 1"}
    whole = metric(75.0, 25.0, 100.0, "1 0 1 1")
    runs = {"pilot": run(geoqa=entry(limit=2, accuracy=small)), "full": run(geoqa=entry(accuracy=whole))}
    (section,) = build_sections(runs)
    assert section.rows[-1].name == "full - pilot"
    cell = section.rows[-1].cells[section.columns.index("GeoQA")]
    assert (cell.value, cell.note) == (None, "4 items, and 2")
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


def geoqa_difference(first, second):
    before, after = metric(25.0, 0.0, 75.0, "0 0 0 1"), metric(75.0, 25.0, 100.0, "1 0 1 1")
    runs = {"a": run(geoqa=entry(accuracy=before, **first)), "b": run(geoqa=entry(accuracy=after, **second))}
    (section,) = build_sections(runs)
    return section.rows[-1].cells[section.columns.index("GeoQA")], to_markdown([section])


def test_what_was_asked_differently_is_not_paired() -> None:
    cell, text = geoqa_difference({"items_digest": "d1"}, {"items_digest": "d2"})
    assert (cell.value, cell.interval) == (50.0, None)
    assert "| +50.00 (unpaired: other questions, prompts or references) |" in text
    cell, _ = geoqa_difference({"items_digest": None}, {"items_digest": None})
    assert (cell.interval, cell.note) == (None, "unpaired: questions not recorded")


def test_grades_of_two_judges_are_not_compared() -> None:
    one, other = ({"model": name, "official_prompt": True} for name in ("small", "large"))
    cell, text = geoqa_difference({"judge": one}, {"judge": other})
    assert cell.value is None
    assert "| – (two judges) |" in text
    assert geoqa_difference({"judge": one}, {"judge": one})[0].interval is not None


OLDER = (
    "scored by an older version of llava-mocle, whose numbers do not compare with these. The command that made the "
    "scores, given again, scores the stored answers anew."
)


@pytest.mark.parametrize(
    ("prompts", "task", "place", "metric_name", "published", "other", "words"),
    [
        ("instructblip", "okvqa", "OKVQA", "accuracy", "vqaEval.py", "", OLDER),
        ("instructblip", "gqa", "GQA", "accuracy", "LAVIS", "", OLDER),
        ("llava", "mmbench", "MMB", "circular", "VLMEvalKit 2024", "", OLDER),
        (
            *("llava", "mmbench", "MMB", "circular", "VLMEvalKit 2024", "VLMEvalKit 2025"),
            "scored by VLMEvalKit 2025; published numbers are by VLMEvalKit 2024.",
        ),
    ],
)
def test_scores_by_another_scorer_than_the_papers(prompts, task, place, metric_name, published, other, words) -> None:
    numbers = {metric_name: metric(50.0, 45.0, 55.0, "0 1 0 1")}
    runs = {
        name: run(prompts, **{task: entry(scorer=scorer, **numbers)})
        for name, scorer in (("new", published), ("old", other))
    }
    if not other:  # older versions wrote no name
        del runs["old"]["tasks"][task]["scorer"]
    (section,) = build_sections(runs)
    column = section.columns.index(place)
    cells = {row.name: row.cells[column] for row in section.rows}
    assert (cells["new"].value, cells["new"].note) == (50.0, "")
    assert (cells["old"].value, cells["old"].note) == (50.0, "another scorer")
    against = [cell for name, cell in cells.items() if name.startswith(("new - paper", "old - paper"))]
    assert [cell.value is None for cell in against] == [False, True]
    # Nor are the two runs compared with each other.
    assert (cells["old - new"].value, cells["old - new"].note) == (None, "two scorers")
    assert section.notes == (f"old, T (s): {words}",)


def test_an_older_scorers_numbers_are_marked_without_a_published_one_beside_them() -> None:
    numbers = {"accuracy": metric(50.0, 45.0, 55.0), "accuracy_official": metric(48.0, 43.0, 53.0)}
    runs = {"old": run(vqav2_val=entry(**numbers)), "new": run(gqa=entry(accuracy=numbers["accuracy"]))}
    (section,) = build_sections(runs)
    assert [row.cells[0].note for row in section.rows] == ["another scorer", "another scorer", ""]
    assert section.notes == (f"old, T (s): {OLDER}",)


def test_the_paper_s_a_okvqa_is_the_raw_match() -> None:
    numbers = {"accuracy": metric(60.0, 55.0, 65.0), "accuracy_exact": metric(50.0, 45.0, 55.0)}
    table, _ = build_sections({"ours": run("instructblip", aokvqa_direct=entry(**numbers))})
    (row,) = [row for row in table.rows if row.name == "ours"]
    assert row.cells[table.columns.index("A-OKVQA direct")].value == 50.0


def test_what_unparsed_answers_count_as_and_who_graded() -> None:
    pope = entry(9, unparsed=2, unparsed_as="yes", f1_adversarial=metric(66.7, 60.0, 70.0))
    judge = {"model": "grader", "official_prompt": False, "max_tokens": 512}
    vet = entry(unparsed=1, unparsed_as="0", judge=judge, total=metric(30.0, 20.0, 40.0))
    (table,) = build_sections({"ours": run("instructblip", pope=pope)})
    assert table.notes == ("ours, T (s): 2 of all 9 answers unparsed, counted as yes.",)
    (other,) = build_sections({"ours": run(mm_vet=vet | {"scorer": "mm-vet_evaluator.py"})})
    assert other.rows[0].cells[0].note == "1 unparsed, counted as 0"
    assert other.notes == ("ours, T (s): graded by grader with our prompt and max_tokens 512.",)


def test_unparsed_answers_stand_where_they_are_known_to_belong() -> None:
    """To a headline over all questions; else below the table, as nobody knows which part they are of."""
    parts = {"open_recall": metric(40.0, 30.0, 50.0, n=2), "closed_accuracy": metric(60.0, 50.0, 70.0, n=2)}
    total = {"total": metric(1500.0, 1400.0, 1600.0), "perception": metric(1200.0, 1100.0, 1300.0)}
    run_ = run(vqa_rad=entry(unparsed=3, title="RAD", **parts), mme=entry(unparsed=2, **total))
    table, other = build_sections({"ours": run_})
    (row,) = [row for row in table.rows if row.name == "ours"]
    notes = {label: cell.note for label, cell in zip(table.columns, row.cells, strict=True) if cell.value is not None}
    assert notes == {"RAD open": "", "RAD closed": "", "MME": "2 unparsed"}
    assert table.notes == ("ours, RAD (s): 3 of all 4 answers unparsed.",)
    assert [row.cells[0].note for row in other.rows] == [""]
    assert other.notes == ()


def test_another_number_of_questions_than_published_is_told() -> None:
    one = {"accuracy": metric(61.0, 55.0, 66.0), "official_n": 754}
    (section,) = build_sections({"ours": run(geoqa=entry(title="GeoQA", **one))})
    assert section.rows[-2].cells[section.columns.index("GeoQA")].note == "†"
    assert section.notes == ("† ours, GeoQA (s): 4 questions; n differs from the published 754.",)
    for known in (one | {"limit": 4}, one | {"official_n": 4}):
        (section,) = build_sections({"ours": run(geoqa=entry(**known))})
        assert section.notes == ()
