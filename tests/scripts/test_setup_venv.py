"""Which build of PyTorch the environment gets, and that it says why; python and nvidia-smi are stand-ins."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Makes itself the environment's interpreter, and writes down what pip is asked for.
PYTHON = """#!/bin/bash
case "$*" in
    *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *" show torch"*) echo "Version: $INSTALLED" ;;
    *"-m pip"*) echo "$*" >>calls ;;
esac
"""


@pytest.fixture
def setup(tmp_path: Path):
    """Runs the script in a project of its own; returns what it printed, and the words that pip got about torch."""
    (tmp_path / "scripts").mkdir()
    for name in ("pyproject.toml", "scripts/setup_venv.sh"):
        shutil.copy(ROOT / name, tmp_path / name)
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()

    def write(name: str, text: str) -> None:
        (bin_folder / name).write_text(text)
        (bin_folder / name).chmod(0o755)

    write("python", PYTHON)
    write("uname", "#!/bin/sh\necho Linux\n")

    def run(gpu: bool = False, code: int = 0, **variables: str) -> tuple[str, list[str]]:
        write("nvidia-smi", f"#!/bin/sh\nexit {0 if gpu else 1}\n")
        environment = {name: value for name, value in os.environ.items() if name != "TORCH"}
        environment |= {"PATH": f"{bin_folder}:{os.environ['PATH']}", "PYTHON": str(bin_folder / "python")}
        calls = tmp_path / "calls"
        calls.unlink(missing_ok=True)
        done = subprocess.run(
            ["bash", "scripts/setup_venv.sh"], cwd=tmp_path, env=environment | {"INSTALLED": ""} | variables,
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        lines = calls.read_text().splitlines() if calls.exists() else []
        words = [line.split("check ")[1] for line in lines if "torch" in line]
        return done.stdout + done.stderr, words

    return run


CUDA, CPU = "install --quiet torch==2.13.0", "install --quiet torch==2.13.0+cpu"


@pytest.mark.parametrize(
    ("gpu", "variables", "words", "said"),
    [
        (False, {}, CPU, r"CPU build (nvidia-smi finds no GPU here; TORCH=cuda make setup takes the CUDA build"),
        (True, {}, CUDA, "with CUDA (nvidia-smi finds a GPU here)"),
        (False, {"TORCH": "cuda"}, CUDA, "with CUDA (TORCH=cuda)"),
        (True, {"TORCH": "cpu"}, CPU, "CPU build (TORCH=cpu)"),
    ],
)
def test_which_build(setup, gpu: bool, variables: dict, words: str, said: str) -> None:
    printed, called = setup(gpu, **variables)
    assert called == [words]
    assert said in printed


def test_a_named_build_replaces_the_other_and_is_kept_to(setup) -> None:
    assert setup()[1] == [CPU]
    assert setup() == ("", [])
    assert setup(TORCH="cuda", INSTALLED="2.13.0+cpu")[1] == ["uninstall --quiet -y torch", CUDA]
    assert setup() == ("", [])
    assert setup(TORCH="cuda") == ("", [])


def test_another_word_is_refused(setup) -> None:
    printed, called = setup(TORCH="gpu", code=2)
    assert "TORCH is gpu, expected cuda or cpu" in printed
    assert called == []
