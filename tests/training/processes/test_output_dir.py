"""The output folder of several ranks."""

from pathlib import Path

import pytest

from llava_mocle.errors import ConfigError
from llava_mocle.training.processes import output_dir


class TwoRanks:
    """What rank 0, or another, of two knows of its run."""

    num_processes = 2

    def __init__(self, rank: int) -> None:
        self.process_index, self.is_main_process = rank, rank == 0

    def wait_for_everyone(self) -> None:
        pass


def test_nothing_is_left_of_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    rank = TwoRanks(0)
    rank.wait_for_everyone = lambda: seen.extend(path.name for path in tmp_path.iterdir())
    monkeypatch.setattr(output_dir, "PartialState", lambda: rank)
    output_dir.check_shared(tmp_path)
    assert [name[:7] for name in seen] == [".probe-"]
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output_dir, "PartialState", lambda: TwoRanks(1))
    monkeypatch.setattr(output_dir, "_PATIENCE_S", 0.0)
    with pytest.raises(ConfigError, match=r"rank 1 on .* does not see the file"):
        output_dir.check_shared(tmp_path)
