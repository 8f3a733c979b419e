"""`llava-mocle compare` around the runs: the list, the report, the SLURM script, and what cannot be."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.cli.several import run_several
from tests.experiment.experiments import fake_executor, open_experiment, write_design
from tests.tiny_run import mix  # noqa: F401


@pytest.fixture
def design(tmp_path: Path, mix) -> Path:  # noqa: F811
    return write_design(tmp_path, mix, learning_rates=[0.1, 0.2], methods=["lora_activated", "mocle"], seeds=2)


def rows(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def test_the_list(tmp_path: Path, design: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(design), "--list"]) == 0
    found = rows(capsys.readouterr().out)
    assert found[0] == ["0", "lora_activated", "0", "all", "0.1", "new", "lora_activated/seed0-lr0.1"]
    assert found[4] == ["4", "lora_activated", "0", "all", "to be chosen", "waits for the search", ""]
    assert len(found) == 4 + 4
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    assert main(["compare", str(design), "--list", "--only", "mocle"]) == 0
    assert [row[4:] for row in rows(capsys.readouterr().out)] == [
        ["0.1", "done", "mocle/seed0-lr0.1"],
        ["0.2", "done", "mocle/seed0-lr0.2"],
        ["0.1", "done", "mocle/seed0-lr0.1"],  # equal scores: the smaller rate
        ["0.1", "done", "mocle/seed1"],
    ]


def test_the_report_and_its_exit_code(tmp_path: Path, design: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(design), "--report-only"]) == 1  # runs are missing
    (tmp_path / "fail-train-mocle-seed1").touch()
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    assert main(["compare", str(design), "--report-only"]) == 1
    assert "1 runs are missing, and what follows is of the others: mocle/seed1." in capsys.readouterr().out
    (tmp_path / "fail-train-mocle-seed1").unlink()
    open_experiment(design).carry_out(fake_executor(tmp_path), "best")
    assert main(["compare", str(design), "--report-only"]) == 0
    out = tmp_path / "experiment"
    printed = capsys.readouterr().out
    assert (out / "REPORT.md").read_text() in printed
    assert "| lora_activated | 60.0 | 60.0 | 0.1 |" in printed
    assert "methods_validation.png" in {path.name for path in (out / "figures").iterdir()}
    assert (out / "report.html").is_file()


def test_a_run_by_its_number(design: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["compare", str(design), "--run", "8"]) == 2
    assert "--run 8: there are runs 0 to 7; --list shows them" in capsys.readouterr().err
    assert main(["compare", str(design), "--run", "4"]) == 2
    assert "its learning rate is not chosen yet" in capsys.readouterr().err
    assert main(["compare", str(design), "--only", "lora"]) == 2
    assert "--only lora: no such method; there are lora_activated, mocle" in capsys.readouterr().err
    assert main(["compare", str(design), "--jobs", "0"]) == 2


# Notes how it was called, and prints a job's number.
SBATCH = """#!/usr/bin/env bash
printf '%s ' "$@" >> "$NOTES"
echo >> "$NOTES"
echo "$(wc -l < "$NOTES")"
"""
# In place of the python that the tasks start.
PYTHON = """#!/usr/bin/env bash
echo "$@" >> "$NOTES"
exit "${CODE:-0}"
"""


def stub(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_slurm(tmp_path: Path, design: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stub(tmp_path, "sbatch", SBATCH)
    stub(tmp_path, "scontrol", SBATCH)
    stub(tmp_path, "python", PYTHON)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main(["compare", str(design), "--slurm", "--only", "mocle"]) == 0
    script = tmp_path / "experiment" / "compare.sbatch"
    notes = tmp_path / "notes"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "NOTES": str(notes)}
    environment.pop("SLURM_JOB_ID", None)
    subprocess.run(["bash", script, "--partition=gpu"], env=environment, check=True)
    search, others, report = notes.read_text().splitlines()
    assert "--parsable --partition=gpu --array=0-1 --export=ALL,COMPARE_TASK=run" in search
    assert "--parsable --partition=gpu --dependency=afterany:1 --array=2-3 --export=ALL,COMPARE_TASK=run" in others
    assert "--partition=gpu --dependency=afterany:2 --export=ALL,COMPARE_TASK=report" in report

    def task(code: int = 0, **variables: str) -> tuple[int, list[str]]:
        notes.write_text("")
        given = environment | {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "5", "CODE": str(code)} | variables
        return subprocess.run(["bash", script], env=given).returncode, notes.read_text().splitlines()

    words = f"-m llava_mocle.cli.main compare {design} --only mocle --keep-weights best"
    assert task(COMPARE_TASK="run", SLURM_ARRAY_TASK_ID="3") == (0, [f"{words} --run 3"])
    assert task(COMPARE_TASK="report") == (0, [f"{words} --report-only"])
    assert task(1, COMPARE_TASK="run", SLURM_ARRAY_TASK_ID="3") == (1, [f"{words} --run 3"])
    # Preempted: the task is put back into the queue.
    code, lines = task(75, COMPARE_TASK="run", SLURM_ARRAY_TASK_ID="3")
    assert (code, lines[1].strip()) == (75, "requeue 5_3")


def test_several_stop_at_the_first_that_fails(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    good, bad = ["recipes"], ["train", str(tmp_path / "none.yaml")]
    assert run_several([*good, "--then", *good]) == 0
    assert run_several([*bad, "--then", *good]) == 2
    assert capsys.readouterr().err.count("none.yaml") == 1
