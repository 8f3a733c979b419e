import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.errors import ConfigError, DataError
from tests.data.conftest import make_row


def specs(tmp_path: Path) -> list[DatasetSpec]:
    made = []
    for name, rows, repeat in (("natural", 5, 1), ("geometry", 3, 2), ("medical", 2, 9)):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([make_row("q", "a", row_id=index) for index in range(rows)]))
        made.append(DatasetSpec(name, str(path), repeat=repeat))
    return made


def test_each_row_is_met_exactly_repeat_times(tmp_path: Path) -> None:
    mixture = Mixture.load(specs(tmp_path))
    assert len(mixture) == 5 * 1 + 3 * 2 + 2 * 9
    met = Counter(mixture.locate(index) for index in range(len(mixture)))
    expected = {(0, row): 1 for row in range(5)} | {(1, row): 2 for row in range(3)} | {(2, row): 9 for row in range(2)}
    assert met == expected
    assert mixture.names == ["natural", "geometry", "medical"]
    for index in (-1, len(mixture)):
        with pytest.raises(IndexError, match=f"index {index} of 29"):
            mixture.locate(index)


def test_values_of_rows_are_spread_over_the_index(tmp_path: Path) -> None:
    mixture = Mixture.load(specs(tmp_path))
    values = [np.arange(5) + 10, np.arange(3) + 20, np.arange(2) + 30]
    spread = mixture.spread(values)
    assert len(spread) == len(mixture)
    for index, value in enumerate(spread.tolist()):
        dataset, row = mixture.locate(index)
        assert value == values[dataset][row]


def test_held_out_rows_keep_the_dataset_ids(tmp_path: Path) -> None:
    natural, geometry, medical = specs(tmp_path)
    held_out = DatasetSpec(medical.name, medical.data_path, repeat=9, eval_data_path=geometry.data_path)
    mixture = Mixture.load([natural, geometry, held_out], split="eval")
    assert [mixture.locate(index) for index in range(len(mixture))] == [(2, 0), (2, 1), (2, 2)]
    assert mixture.names == ["natural", "geometry", "medical"]
    assert mixture.specs[2].data_path == geometry.data_path


def test_shorthand_for_one_dataset(tmp_path: Path) -> None:
    path = specs(tmp_path)[0].data_path
    mixture = Mixture.load([DatasetSpec.single(path, "images")])
    assert mixture.names == ["natural"]
    assert len(mixture) == 5


@pytest.mark.parametrize("repeat", [0, -1, 1.5, True, "2"])
def test_repeat_is_a_whole_number(repeat: object) -> None:
    with pytest.raises(ConfigError, match="'x': repeat is"):
        DatasetSpec("x", "x.json", repeat=repeat)  # type: ignore[arg-type]


@pytest.mark.parametrize("weight", [0, -1, True, "2", "sqrt", float("nan"), float("inf"), 10**400, [1]])
def test_weight_is_a_positive_number_or_sqrt_size(weight: object) -> None:
    with pytest.raises(ConfigError, match=r"'x': weight is .* expected sqrt_size, or a number above 0"):
        DatasetSpec("x", "x.json", weight=weight)  # type: ignore[arg-type]


def test_weight_takes_the_place_of_repeat() -> None:
    with pytest.raises(ConfigError, match=r"'x': both repeat \(2\) and weight \(0.5\) are set"):
        DatasetSpec("x", "x.json", repeat=2, weight=0.5)


def test_all_datasets_have_a_weight_or_none() -> None:
    mixed = [DatasetSpec("a", "a.json", weight=2), DatasetSpec("b", "b.json")]
    with pytest.raises(ConfigError, match="'b' has no weight, and others have one"):
        Mixture(mixed, {"a": [{}], "b": [{}]})


def test_how_often_rows_are_met() -> None:
    rows = {"natural": [{}] * 16, "geometry": [{}] * 4, "medical": [{}]}
    repeated = [DatasetSpec(name, "x", repeat=number) for name, number in zip(rows, (1, 2, 9), strict=True)]
    mixture = Mixture(repeated, rows)
    assert mixture.weights is None
    assert mixture.rates().tolist() == [1, 2, 9]
    weighted = [DatasetSpec(name, "x", weight=weight) for name, weight in zip(rows, ("sqrt_size", 2, 1), strict=True)]
    mixture = Mixture(weighted, rows)
    assert len(mixture) == 21
    assert mixture.weights.tolist() == [4, 2, 1]
    # Of 21 samples, 21 x 4 / 7 = 12 are of the first, 6 of the second, 3 of the third.
    np.testing.assert_allclose(mixture.rates(), [12 / 16, 6 / 4, 3], rtol=1e-12)


def test_held_out_rows_are_read_once_whatever_the_weight(tmp_path: Path) -> None:
    natural, geometry, _ = specs(tmp_path)
    weighted = [
        DatasetSpec("natural", natural.data_path, weight=3, eval_data_path=geometry.data_path),
        DatasetSpec("geometry", geometry.data_path, weight="sqrt_size"),
    ]
    held_out = Mixture.load(weighted, split="eval")
    assert len(held_out) == 3
    assert held_out.weights is None


def test_bad_mixtures(tmp_path: Path) -> None:
    natural = specs(tmp_path)[0]
    with pytest.raises(ConfigError, match="at least one dataset"):
        Mixture.load([])
    with pytest.raises(ConfigError, match="'natural' is used twice"):
        Mixture.load([natural, natural])
    with pytest.raises(ConfigError, match="'natural' has no rows"):
        Mixture([natural], {"other": []})
    with pytest.raises(DataError, match=r"gone\.json"):
        Mixture.load([DatasetSpec("gone", str(tmp_path / "gone.json"))])
