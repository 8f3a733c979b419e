"""Which held-out rows a validation pass reads: counts worked by hand, and the promises of the order."""

from types import SimpleNamespace

import numpy as np
import pytest

from llava_mocle.training.loop.held_out import choose_rows, even_batch, held_out_pass, rows_between, rows_of_pass

SIZES = {"a": 60, "b": 30, "c": 3}


class Rows:
    """What the choice reads of a `RowDataset`: 93 samples of three datasets, in four clusters, of known lengths."""

    def __init__(self, clusters: bool = True) -> None:
        self.sizes = list(SIZES.values())
        self.names = list(SIZES)
        self.mixture = SimpleNamespace(
            names=self.names, ids_of_rows=lambda: [np.full(size, place) for place, size in enumerate(self.sizes)]
        )
        # Clusters 0 and 1 alternate; 2 and 3 have one row each.
        ids = [np.arange(size) % 2 for size in self.sizes]
        ids[0][7], ids[1][3] = 2, 3
        self.cluster_ids = dict(zip(self.names, ids, strict=True)) if clusters else None
        self.lengths = np.random.default_rng(0).integers(5, 90, len(self))

    def __len__(self) -> int:
        return sum(self.sizes)

    def of_samples(self, of_rows: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(of_rows)


def arguments(**changes) -> SimpleNamespace:
    values = {
        "per_device_train_batch_size": 4, "train_batch_size": 4, "gradient_accumulation_steps": 1, "world_size": 1,
        "eval_batch_size": 8, "max_steps": 100, "num_train_epochs": 1.0, "eval_steps": 20,
        "eval_strategy": SimpleNamespace(value="steps"),
        "dataloader_drop_last": False, "eval_rows": None, "seed": 3, "data_seed": None,
        "process_index": 0,
    }  # fmt: skip
    return SimpleNamespace(**values | changes)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, 80),
        ({"eval_steps": 0.25}, 100),  # a share of the 100 steps
        ({"eval_steps": 500}, 400),  # never reached: all steps
        ({"eval_strategy": SimpleNamespace(value="epoch")}, 100),  # 98 samples are 25 batches of 4
        ({"eval_strategy": SimpleNamespace(value="epoch"), "dataloader_drop_last": True}, 96),
        ({"eval_strategy": SimpleNamespace(value="no"), "max_steps": -1, "num_train_epochs": 2.0}, 200),
        ({"world_size": 2, "gradient_accumulation_steps": 3}, 480),
    ],
)
def test_rows_between_two_passes(changes: dict, expected: int) -> None:
    assert rows_between(arguments(**changes), 98) == expected


@pytest.mark.parametrize(
    ("wanted", "held_out", "between", "expected"),
    [
        (None, 1000, 1120, 224),  # a fifth
        (None, 200, 1120, 200),
        (None, 1000, 40, 32),  # the fewest
        (None, 10, 40, 10),
        (0, 1000, 40, 1000),
        (50, 1000, 40, 50),
        (5000, 1000, 40, 1000),
    ],
)
def test_how_many_rows_a_pass_reads(wanted: int | None, held_out: int, between: int, expected: int) -> None:
    assert rows_of_pass(wanted, held_out, between) == expected


def test_rows_are_chosen_of_each_dataset_in_proportion_and_of_every_cluster() -> None:
    rows = Rows()
    chosen = choose_rows(rows, 31, seed=0)
    datasets = np.repeat([0, 1, 2], rows.sizes)[chosen]
    plain = choose_rows(Rows(clusters=False), 31, seed=0)
    assert np.bincount(np.repeat([0, 1, 2], rows.sizes)[plain]).tolist() == [20, 10, 1]
    assert set(plain) <= set(chosen)
    assert (np.bincount(datasets) >= [20, 10, 1]).all()
    clusters = rows.of_samples(list(rows.cluster_ids.values()))
    assert set(clusters[chosen]) == {0, 1, 2, 3}
    assert len(chosen) <= 33
    assert sorted(set(chosen)) == chosen.tolist()


def test_one_row_of_each_dataset_and_cluster_is_the_least() -> None:
    rows = Rows()
    chosen = choose_rows(rows, 1, seed=0)
    assert set(np.repeat([0, 1, 2], rows.sizes)[chosen]) == {0, 1, 2}
    assert set(rows.of_samples(list(rows.cluster_ids.values()))[chosen]) == {0, 1, 2, 3}


def test_the_choice_follows_from_the_seed() -> None:
    first, again, other = (choose_rows(Rows(), 20, seed).tolist() for seed in (1, 1, 2))
    assert first == again != other
    assert set(choose_rows(Rows(), 10, 1)) <= {*first, *choose_rows(Rows(), 20, 1)}
    assert choose_rows(Rows(), 93, 1).tolist() == list(range(93))


@pytest.mark.parametrize(
    ("count", "most", "processes", "expected"),
    [
        (48, 32, 1, 24),  # two batches either way
        (10, 16, 1, 10),
        (10, 3, 2, 3),  # two batches on each process
        (9, 8, 2, 5),
        (64, 8, 2, 8),
        (1, 8, 4, 1),
    ],
)
def test_batches_of_one_size(count: int, most: int, processes: int, expected: int) -> None:
    assert even_batch(count, most, processes) == expected


@pytest.mark.parametrize(("processes", "batch"), [(1, 8), (2, 8), (5, 7)])
def test_the_order_is_by_length_in_whole_batches_of_all_processes(processes: int, batch: int, capsys) -> None:
    rows, args = Rows(), arguments(eval_rows=0, world_size=processes)
    found = held_out_pass(rows, args, 98).indices
    assert args.per_device_eval_batch_size == batch
    assert len(found) % (batch * processes) == 0
    read, fillers = found[:93], found[93:]
    assert len(fillers) < batch * processes
    assert sorted(read) == list(range(93))
    assert (np.diff(rows.lengths[read]) <= 0).all()
    assert fillers == [~read[-1]] * len(fillers)
    assert capsys.readouterr().out == ""


def test_what_is_said(capsys, caplog: pytest.LogCaptureFixture) -> None:
    held_out_pass(Rows(), arguments(max_steps=1000, eval_steps=50), 98)
    expected = "validating on 40 of 93 held-out rows each time, for 200 trained rows; --eval_rows 0 takes all\n"
    assert capsys.readouterr().out == expected
    assert not caplog.records
    held_out_pass(Rows(), arguments(eval_steps=1), 98)
    assert "after every 4 trained rows, and reads 32: that may take more than a tenth" in caplog.text
    assert "a larger eval_steps" in caplog.text
    caplog.clear()
    held_out_pass(Rows(), arguments(eval_steps=1, eval_rows=0), 98)  # as it was asked for
    held_out_pass(Rows(), arguments(eval_steps=1, eval_strategy=SimpleNamespace(value="no")), 98)
    held_out_pass(Rows(), arguments(eval_steps=1, process_index=1), 98)
    assert not caplog.records
