"""`~` means the home folder wherever a command takes a path, also where the shell leaves it as it is (`--flag=~/x`)."""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import llava_mocle.model.load
from llava_mocle.cli import main as cli
from llava_mocle.evaluation.llava_cli import make_parser
from llava_mocle.io.paths import user_path
from llava_mocle.recipe.keys import GROUPS
from llava_mocle.recipe.policy import declared
from llava_mocle.recipe.recipe import load_recipe, write_recipe
from llava_mocle.recipe.trainer_keys import policies

# Flags that take text which is no path. Every other flag that takes text must name `user_path` as its type.
NO_PATHS = {
    "subcommand", "tasks", "dataset", "prompts", "prepared", "action", "judge_url", "judge_model", "device", "dtype",
    "template", "prompt", "gpu", "name", "turns", "instruction_turns", "vision_feature_select_strategy", "help",
    "conv_mode", "runs", "mmbench_matcher", "answers_key", "model_name", "length_penalty", "repetition_penalty",
    "soft_assignment", "num_clusters", "what", "site", "only", "keep_weights", "category",
    "format", "host", "cors_origin", "upstream", "engine", "ood", "system", "max_batch", "max_requests", "max_body_mib",
    "max_images", "max_image_mib", "max_pixels", "max_side", "max_text", "max_tokens", "timeout", "drain",
}  # fmt: skip


def flags(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from flags(inner)
        elif action.nargs != 0:
            yield action


@pytest.mark.parametrize("command", [*cli.SUBCOMMANDS, "model_vqa"])
def test_every_flag_that_takes_a_path_expands_it(command: str) -> None:
    parser = make_parser(command, None) if command == "model_vqa" else cli._subcommand_parser(command)
    for action in flags(parser):
        if action.type in (int, float) or action.dest in NO_PATHS:
            continue
        assert action.type is user_path, f"{command}: {action.dest}: add type=user_path, or list it as no path"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_path_of_a_recipe(home: Path) -> None:
    keys = [key for key, policy in policies().items() if policy.path and key not in ("image_folder", "eval_data_path")]
    assert {"output_dir", "cluster_model", "resume", "deepspeed", "cluster_cache_dir", "model_config"} <= set(keys)
    entry = {"name": "a", "data_path": "~/a.json", "image_folder": "~/images", "eval_data_path": "~/b.json"}
    for values in (dict.fromkeys(keys, "~/x"), {"datasets": [entry]}):
        (home / "recipe.yaml").write_text(yaml.safe_dump(values))
        from_flags = [f"--{key}={value}" for key, value in values.items()] if "datasets" not in values else []
        for recipe in (
            load_recipe("~/recipe.yaml"),
            load_recipe(None, from_flags or ["--datasets", json.dumps([entry])]),
        ):
            write_recipe(recipe, home / "written.yaml")
            assert "~" not in (home / "written.yaml").read_text()
            now = recipe.trainer | recipe.as_dict()
            if "datasets" in values:
                spec = recipe.data.dataset_specs()[0]
                assert spec.data_path == str(home / "a.json")
                assert spec.image_folder == str(home / "images")
                assert spec.eval_data_path == str(home / "b.json")
            else:
                assert {now[key] for key in keys} == {str(home / "x")}


def test_keys_that_say_folder_or_file_are_paths() -> None:
    """A new key whose help speaks of a folder or a file, but which is not declared as a path, is noticed here."""
    for group in GROUPS.values():
        for key, policy in declared(group).items():
            words = group.__dataclass_fields__[key].metadata["help"].lower()
            about_files = any(word in words for word in (" folder", "config.json", "a file"))
            assert policy.path or not about_files or key == "datasets", key


def test_a_whole_command(home: Path, capsys: pytest.CaptureFixture) -> None:
    (home / "rows.json").write_text(
        '[{"id": "1", "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    assert cli.main(["data", "check", "--rows=~/rows.json"]) == 0
    assert cli.main(["train", "--data_path=~/rows.json", "--resolve=~/out.yaml"]) == 0
    assert yaml.safe_load((home / "out.yaml").read_text())["data_path"] == str(home / "rows.json")
    assert not (home / "~").exists()
    assert cli.main(["generate", "--model", "nothing", "--prompt", "a", "--image=~/none.png"]) == 2
    assert f"--image {home / 'none.png'}: no such file" in capsys.readouterr().err


def test_what_can_be_known_is_refused_before_a_model_is_loaded(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def load(*args: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(llava_mocle.model.load, "load_model", load)
    monkeypatch.setattr(llava_mocle.model, "build_llava", load)
    adapter, full = home / "adapter", home / "full"
    adapter.mkdir()
    full.mkdir()
    (full / "x").touch()
    (adapter / "adapter_config.json").write_text(
        '{"peft_type": "MOCLE", "router": "cluster", "num_clusters": 4, "cluster_dim": 8}'
    )
    collapse = ["collapse", "--model", str(adapter)]
    for words, message in (
        ([*collapse, "--cluster", "9", "--output", "new"], "cluster is 9, but this adapter has clusters 0 to 3"),
        ([*collapse, "--output", "new"], "the gates of one cluster are needed, 0 to 3"),
        ([*collapse, "--cluster", "1", "--output", str(full)], "not an empty folder"),
        (["collapse", "--model", str(full), "--cluster", "1", "--output", "new"], "is not a model folder"),
        (["build", "--language-model", "a", "--vision-tower", "b", "--output", str(full)], "not an empty folder"),
        (["generate", "--model", str(adapter), "--prompt", "a", "--template", "foo"], "unknown template 'foo'"),
    ):
        assert cli.main(words) == 2
        assert message in capsys.readouterr().err
