"""The recipes that ship: listed, copied with what they name, and installed by a wheel."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from llava_mocle.cli.main import main
from llava_mocle.families.model_types import is_known
from llava_mocle.recipe.recipe import load_recipe

ROOT = Path(__file__).parents[2]
RECIPES = sorted(path.stem for path in (ROOT / "scripts" / "recipes").glob("*.yaml"))
CONFIGURATIONS = sorted(path.stem for path in (ROOT / "zero_configs").glob("*.json"))


def test_the_list_names_all_that_ship(capsys: pytest.CaptureFixture) -> None:
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == RECIPES + CONFIGURATIONS
    about = dict(line.split(maxsplit=1) for line in lines)
    assert about["llava_v1_5_7b_mocle"].startswith("LLaVA-1.5-7B with MoCLE on three domains")
    assert about["zero3_offload"].startswith("DeepSpeed, ZeRO stage 3, optimizer and parameters offloaded")


@pytest.mark.parametrize("name", RECIPES)
def test_a_copied_recipe_finds_what_ships_with_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert main(["recipes", "copy", name, str(tmp_path / "work")]) == 0
    copied = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert copied[0] == tmp_path / "work" / f"{name}.yaml"
    assert sorted(copied) == sorted(path for path in (tmp_path / "work").rglob("*") if path.is_file())
    monkeypatch.chdir(tmp_path / "work")
    config = load_recipe(f"{name}.yaml").model.model_config
    assert config is None or is_known(json.loads(Path(config).read_text())["model_type"])
    assert "scripts/" not in copied[0].read_text()
    if name == "llava_v1_5_7b_mocle":
        # It names one in a comment, to be switched on.
        assert Path("zero_configs/zero2.json").read_text() == (ROOT / "zero_configs" / "zero2.json").read_text()


def test_a_configuration_is_copied_to_where_recipes_name_it(tmp_path: Path) -> None:
    for _ in range(2):  # a copy that is already there does no harm
        assert main(["recipes", "copy", "zero3", str(tmp_path)]) == 0
    assert [path.name for path in (tmp_path / "zero_configs").iterdir()] == ["zero3.json"]


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "zero_configs").mkdir()
    mine = tmp_path / "zero_configs" / "zero2.json"
    mine.write_text("{}")
    assert main(["recipes", "copy", "llava_v1_5_7b_mocle", str(tmp_path)]) == 2
    assert f"{mine}: there is a file of another content" in capsys.readouterr().err
    assert mine.read_text() == "{}"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [mine]
    assert main(["recipes", "copy", "mocle", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert "no recipe 'mocle' ships; expected one of instructblip_vicuna_7b_mocle, llava_v1_5_7b_mocle" in told


@pytest.mark.slow
def test_an_installed_wheel_has_them(tmp_path: Path) -> None:
    """Built and installed without a network, into an environment that has only the other packages of this one."""
    # A copy: setuptools builds inside the folder.
    source, work = tmp_path / "source", tmp_path / "work"
    for folder in ("llava_mocle", "scripts", "zero_configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    work.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LLAVA_MOCLE"))}

    def call(*words: object) -> str:
        done = subprocess.run(list(map(str, words)), cwd=work, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", tmp_path, source)
    (wheel,) = tmp_path.glob("llava_mocle-*.whl")
    call(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python, program = tmp_path / "venv/bin/python", tmp_path / "venv/bin/llava-mocle"
    call(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel)
    site = Path(call(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])").strip())
    # The packages of this environment come after its own. An editable installation of this project is not among them:
    # it works through a .pth file, and those of a folder that is added in this way are not read.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    assert Path(call(python, "-c", "import llava_mocle; print(llava_mocle.__file__)").strip()).is_relative_to(site)

    assert "recipes" in call(program, "--help")
    assert "<script>" in call(python, "-c", "from llava_mocle.serving.page import html; print(html())")
    assert [line.split()[0] for line in call(program, "recipes").splitlines()] == RECIPES + CONFIGURATIONS
    call(program, "recipes", "copy", "llava_v1_5_7b_mocle")
    plan = call(program, "plan", "llava_v1_5_7b_mocle.yaml", "--gpus", "8", "--gpu", "a100-80", "--samples", "1000000")
    assert "GiB" in plan
    words = ("--deepspeed", "zero_configs/zero2.json", "--resolve", "resolved.yaml")
    call(program, "train", "llava_v1_5_7b_mocle.yaml", *words)
    assert "model_config: llava_v1_5_7b/config.json" in (work / "resolved.yaml").read_text()
    # LLaVA's name of a configuration is ours here too.
    words = ("--deepspeed", "./scripts/zero3.json", "--resolve", "llava.yaml")
    call(program, "train", "llava_v1_5_7b_mocle.yaml", *words)
    assert "share/llava_mocle/zero_configs/zero3.json" in (work / "llava.yaml").read_text()
