"""What memory there is, as the kernel tells it."""

from pathlib import Path

import pytest

from llava_mocle.export.sizes import available_memory

GIB = 2**30


def machine(root: Path, group: str, limits: dict[str, str]) -> Path:
    """A machine with 64 GiB left, whose control groups have taken 1 GiB each for themselves and 9 GiB for files."""
    files = {
        "proc/meminfo": f"MemTotal: {99 * 2**20} kB\nMemAvailable: {64 * 2**20} kB\n",
        "proc/self/cgroup": f"1:cpu:/elsewhere\n0::{group}\n",
    }
    for name, limit in limits.items():
        files[f"sys/fs/cgroup/{name}/memory.max"] = f"{limit}\n"
        files[f"sys/fs/cgroup/{name}/memory.stat"] = f"anon {GIB}\nfile {9 * GIB}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("group", "limits", "expected"),
    [
        ("/", {}, 64),
        ("/", {".": str(16 * GIB)}, 15),  # a container
        ("/slurm/job_7/step_0", {"slurm/job_7/step_0": "max", "slurm/job_7": str(32 * GIB), "slurm": "max"}, 31),
        ("/a/b", {"a/b": str(128 * GIB)}, 64),
    ],
)
def test_what_a_job_may_take(group: str, limits: dict[str, str], expected: int, tmp_path: Path) -> None:
    assert available_memory(machine(tmp_path, group, limits)) == expected * GIB
