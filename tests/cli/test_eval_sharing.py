"""Which process answers what: by flags, by torchrun's rank, or refused."""

import argparse

import pytest

from llava_mocle.cli.eval_sharing import make_shard
from llava_mocle.errors import ConfigError


def flags(num_chunks=None, chunk_idx=None) -> argparse.Namespace:
    return argparse.Namespace(num_chunks=num_chunks, chunk_idx=chunk_idx, device=None)


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)


def test_flags() -> None:
    assert (make_shard(flags()).count, make_shard(flags()).joins) == (1, True)
    part = make_shard(flags(4, 1))
    assert (part.index, part.count, part.joins, part.in_company) == (1, 4, False, False)
    for wrong in (flags(None, 1), flags(4), flags(4, 4), flags(4, -1)):
        with pytest.raises(ConfigError, match="--chunk-idx"):
            make_shard(wrong)


def test_chunks_under_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="--num-chunks under torchrun"):
        make_shard(flags(4, 1))


def test_srun_tasks_that_do_not_know_of_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")  # a job of one, or its script
    assert make_shard(flags()).count == 1
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "8")
    with pytest.raises(ConfigError, match=r"srun started 8 tasks.*rank\.sh.*eval\.sbatch"):
        make_shard(flags())
    assert make_shard(flags(8, 3)).index == 3  # each knows its part
    monkeypatch.setenv("RANK", "0")  # torchrun, started by srun
    assert make_shard(flags()).count == 1
