"""The verdict follows its rules on scores whose answer is plain."""

import numpy as np
import pytest

from llava_mocle.experiment.statistics import Resampled, Table
from llava_mocle.experiment.verdict import Answer, verdicts

QUESTIONS = 200


def scores(share: float, seeds: int = 5, spread: float = 0.01, **other: float) -> Table:
    """A method that is right on this share of the questions, the same ones for all; its seeds lie this far apart."""

    def rows(mean: float) -> np.ndarray:
        offsets = np.linspace(-1, 1, seeds) * spread if seeds > 1 else [0.0]
        return np.stack([(np.arange(QUESTIONS) < round((mean + off) * QUESTIONS)).astype(float) for off in offsets])

    return Table(tuple(range(seeds)), {"a": rows(share), "b": rows(other.get("b", share))})


def asked(**tables: Table) -> list[Answer]:
    return verdicts(Resampled(tables))


@pytest.mark.parametrize(
    ("single", "lora", "mocle", "expected"),
    [
        (0.6, 0.4, 0.55, ["yes", "yes", "yes"]),
        (0.6, 0.4, 0.3, ["yes", "no", "no"]),
        (0.6, 0.4, 0.4, ["yes", "cannot be told", "cannot be told"]),
        (0.4, 0.6, 0.7, ["no", "cannot be told", "yes"]),  # the domains help each other: nothing to win back
        (0.5, 0.5, 0.7, ["cannot be told", "cannot be told", "yes"]),
    ],
)
def test_answers(single: float, lora: float, mocle: float, expected: list[str]) -> None:
    found = asked(single_domain=scores(single), lora_activated=scores(lora), mocle=scores(mocle))
    assert [one.answer for one in found] == expected


def test_the_share_is_in_the_sentence() -> None:
    found = asked(
        single_domain=scores(0.6, spread=0), lora_activated=scores(0.4, spread=0), mocle=scores(0.55, spread=0)
    )
    assert "mocle - lora_activated is +15.0 points" in found[1].because
    assert ", 75 % (" in found[1].because
    assert "mocle - single_domain is -5.0 points" in found[1].because


def test_no_gap_no_share() -> None:
    found = asked(single_domain=scores(0.5), lora_activated=scores(0.5), mocle=scores(0.7))
    assert found[1].because.startswith("there is no gap to recover")
    assert "%" not in found[1].because


def test_domains_are_told_apart() -> None:
    found = asked(single_domain=scores(0.7, b=0.3), lora_activated=scores(0.3, b=0.7))
    assert found[0].answer == "cannot be told"
    assert "above on a; below on b." in found[0].because


def test_few_seeds_are_named() -> None:
    wide = asked(single_domain=scores(0.55, 2, 0.1), lora_activated=scores(0.5, 2, 0.1))
    assert wide[0].answer == "cannot be told"
    assert "there are only 2 seeds" in wide[0].because
    one = asked(single_domain=scores(0.5, 1), lora_activated=scores(0.5, 1))
    assert "over questions alone, as there is one seed" in one[0].because


def test_what_was_not_run_is_not_answered() -> None:
    assert asked(single_domain=scores(0.5), token=scores(0.5)) == []
    (only,) = asked(mocle=scores(0.6), token=scores(0.4))
    assert (only.question, only.answer) == ("Is mocle better than token?", "yes")
