"""Two runs on held-out rows, compared."""

from typing import Any

import pytest

from llava_mocle.analysis.held_out import held_out_section
from llava_mocle.evaluation.scores.statistics import paired_difference_interval


def domain(scores: list[float], digest: str = "d") -> dict[str, Any]:
    mean = sum(scores) / len(scores)
    items = " ".join(f"{score:g}" for score in scores)
    return {"n": len(scores), "score": mean, "interval": [mean, mean], "item_scores": items, "items_digest": digest}


def run(**domains: dict[str, Any]) -> dict[str, Any]:
    scores = [entry["score"] for entry in domains.values()]
    return {"kind": "held_out_exact_match", "mean": sum(scores) / len(scores), "domains": domains}


def test_verdict_follows_the_paired_interval() -> None:
    lora = run(better=domain([0.0] * 40), worse=domain([1.0] * 40), even=domain([0.0, 1.0] * 20))
    mocle = run(better=domain([1.0] * 40), worse=domain([0.0] * 40), even=domain([1.0, 0.0] * 20))
    section = held_out_section({"lora": lora, "mocle": mocle})
    assert section.columns == ("lora", "mocle", "mocle - lora")
    assert section.notes == ("mocle against lora: better on better; worse on worse; not told apart on even.",)
    cells = {row.name: row.cells for row in section.rows}
    assert [cell.value for cell in cells["better (n = 40)"]] == [0.0, 100.0, 100.0]
    low, high = paired_difference_interval([0.0, 1.0] * 20, [1.0, 0.0] * 20)
    assert cells["even (n = 40)"][2].interval == pytest.approx((100 * low, 100 * high))
    assert [cell.value for cell in cells["mean of the domains"][:2]] == pytest.approx([50.0, 50.0])


def test_other_rows_are_not_paired() -> None:
    section = held_out_section(
        {"a": run(x=domain([0.0] * 9), y=domain([1.0] * 9)), "b": run(x=domain([1.0] * 9, "other"), z=domain([1.0]))}
    )
    assert section.notes == ("b against a: not compared on x, y, z.",)
    cells = {row.name.split()[0]: row.cells for row in section.rows}
    assert cells["x"][2].value == 100.0
    assert cells["x"][2].interval is None
    assert cells["x"][2].note == "unpaired: other rows"
    assert cells["y"][1].value is None


def test_one_run_has_no_difference() -> None:
    section = held_out_section({"only": run(x=domain([1.0, 0.0]))})
    assert section.columns == ("only",)
    assert section.notes == ()
