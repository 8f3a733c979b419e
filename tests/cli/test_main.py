"""The command line answers without loading what it does not need, and turns user errors into exit code 2."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from llava_mocle.cli.main import SUBCOMMANDS, main


def run(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "llava_mocle.cli.main", *words], capture_output=True, text=True)


@pytest.mark.parametrize("name", [None, *SUBCOMMANDS])
def test_help_needs_no_torch(name: str | None) -> None:
    words = ["--help"] if name is None else [name, "--help"]
    code = (
        "import sys; from llava_mocle.cli.main import main\n"
        f"try: main({words!r})\n"
        "except SystemExit as error: assert error.code == 0\n"
        "heavy = {'torch', 'transformers', 'peft', 'sklearn', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "llava-mocle" in result.stdout


def test_a_user_error_is_one_line_and_exit_code_2(capsys: pytest.CaptureFixture) -> None:
    assert main(["train", "no_such_recipe.yaml"]) == 2
    error = capsys.readouterr().err
    assert "no_such_recipe.yaml" in error
    assert "Traceback" not in error


def test_train_takes_the_recipe_first_and_keys_after(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("lora_r: 4\ndata_path: rows.json\n")
    for words in (
        [str(recipe), "--lora-alpha", "9"],
        ["--data_path", "rows.json", "--lora_r", "4", "--lora_alpha", "9"],
    ):
        assert main(["train", *words, "--output_dir", "runs/x", "--resolve", str(tmp_path / "out.yaml")]) == 0
        resolved = yaml.safe_load((tmp_path / "out.yaml").read_text())
        assert (resolved["lora_r"], resolved["lora_alpha"], resolved["output_dir"]) == (4, 9, "runs/x")


def test_a_dry_run_does_not_resolve(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "out.yaml"
    assert main(["train", "--data_path", "rows.json", "--dry-run", "--resolve", str(out)]) == 2
    assert f"--dry-run and --resolve {out}" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("flag", ["--num-clusters", "--num_clusters", "--num_clusters="])
def test_a_flag_in_the_spelling_of_recipe_keys(flag: str, capsys: pytest.CaptureFixture) -> None:
    """What is read is the flag; what is wrong is the file."""
    value = [f"{flag}4"] if flag.endswith("=") else [flag, "4"]
    assert main(["cluster", "--rows", "no_such_rows.json", *value, "--output", "no_such_folder"]) == 2
    assert "no_such_rows.json" in capsys.readouterr().err


def test_a_value_keeps_its_spelling(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["cluster", f"--rows={tmp_path}/no_such_rows.json", f"--output={tmp_path}/x"]) == 2
    assert "no_such_rows.json" in capsys.readouterr().err


def test_unknown_subcommand() -> None:
    result = run("tarin")
    assert result.returncode == 2
    assert "train" in result.stderr


ENDING = """
import atexit, os, sys
from llava_mocle.cli import main as cli

class AbortsWhenTakenDown:
    def __del__(self, abort=os.abort):
        abort()

class Work:
    @staticmethod
    def add_arguments(parser): pass
    @staticmethod
    def run(args):
        import torch.distributed as dist
        if {group}:
            dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
        globals()["leftover"] = AbortsWhenTakenDown()
        atexit.register(print, "tidied up")
        print("said at the end")
        {last}

cli.import_module = lambda name: Work
cli.SUBCOMMANDS[{name!r}] = ("work", "")
sys.argv = ["llava-mocle", {name!r}, *{flags!r}]
cli.program()
"""


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ("return 0", 0),
        ("from llava_mocle.errors import Preempted; raise Preempted('checkpoint-3 was written')", 75),
        ("raise RuntimeError('broken')", 1),
    ],
)
def test_a_process_of_several_ends_with_its_own_exit_code(last: str, expected: int) -> None:
    def end(group: bool) -> subprocess.CompletedProcess:
        code = ENDING.format(group=group, last=last, name="train", flags=[])
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    result = end(group=True)
    assert result.returncode == expected, result.stderr
    assert result.stdout.splitlines() == ["said at the end", "tidied up"]
    assert ("broken" in result.stderr) == (expected == 1)
    # The other way round: without a process group Python takes everything down, and what aborts then is seen.
    assert end(group=False).returncode == -6


@pytest.mark.parametrize(
    ("last", "flags", "expected"),
    [
        ("return 0", [], 0),
        ("raise RuntimeError('broken')", [], 1),
        ("", ["--help"], 0),
        ("", ["--wrong"], 2),
    ],
)
def test_commands_that_only_answer_end_at_once(last: str, flags: list[str], expected: int) -> None:
    """With the exit code that Python would give, and all that was said."""
    code = ENDING.format(group=False, last=last, name="generate", flags=flags)
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == expected, result.stderr
    if not flags:
        assert result.stdout.splitlines() == ["said at the end", "tidied up"]
        assert ("broken" in result.stderr) == (expected == 1)


@pytest.mark.parametrize(
    "command",
    [
        ["report"],
        ["eval", "prepare", "pope", "--data-root"],
        ["eval", "--rows", "no.json", "--output", "out", "--model"],
        ["data", "check", "--rows"],
        ["train"],
        ["cluster", "inspect"],
    ],
)
def test_a_path_that_is_too_long_to_be_looked_up(command, capsys):
    assert main([*command, "/" + "x" * 300]) in (1, 2)
    printed = capsys.readouterr()
    assert "Traceback" not in printed.out + printed.err
    assert len(printed.err.strip().splitlines()) <= 1
