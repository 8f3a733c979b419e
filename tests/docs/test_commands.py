"""What the documents tell people to type exists: subcommands, flags, modules, scripts and files."""

import re
import shlex
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from llava_mocle.cli.main import SUBCOMMANDS, _subcommand_parser
from llava_mocle.evaluation import llava_cli
from llava_mocle.recipe.llava_table import FLAGS
from llava_mocle.recipe.recipe import known_keys

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Flags of other programs that the pages name.
FOREIGN_FLAGS = {
    *("--gpu-bind", "--gpus-per-task", "--gres", "--ntasks-per-node", "--nodes", "--gpus-per-node", "--qos", "--mem"),
    *("--ssh_port", "--include", "--nproc_per_node", "--KEY", "--log_samples"),
    *("--model_args", "--batch_size", "--output_path", "--max-loras", "--max-cpu-loras"),
    *("--partition", "--gpus", "--cpus-per-task", "--time"),
    *("--output_format", "--url_col", "--caption_col", "--output_folder"),
}
MODEL_VQA_FLAGS = {"--all-rounds", "--model-path", "--image-folder", "--answers-file", "--question-file"}


def code_lines(page: Path) -> list[str]:
    """The lines of fenced and indented code, continued lines as one."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^    .*\n)+", re.sub(r"```.*?```", "", text, flags=re.DOTALL), flags=re.MULTILINE)
    return [line.strip() for block in blocks for line in block.replace("\\\n", " ").splitlines()]


def spans(page: Path) -> list[str]:
    """Inline code of the running text."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


@cache
def recipe_flags() -> frozenset[str]:
    return frozenset({f"--{key}" for key in known_keys()} | {f"--{flag.name}" for flag in FLAGS})


@cache
def flags_of(subcommand: str) -> frozenset[str]:
    """Every flag that a subcommand takes, those of its nested commands and recipe keys included."""
    parsers, found = [_subcommand_parser(subcommand)], set()
    takes_keys = bool(parsers[0].get_default("takes_overrides"))
    while parsers:
        for action in parsers.pop()._actions:
            found |= set(action.option_strings)
            if isinstance(action.choices, dict):  # nested commands
                parsers += action.choices.values()
    return frozenset(found | recipe_flags() if takes_keys else found)


def words_of(line: str) -> list[str]:
    return [word for word in shlex.split(line, comments=True) if word not in ("...", "…")]


def wrong_flags(words: list[str], known: frozenset[str] | set[str]) -> list[str]:
    flags = [word.split("=")[0] for word in words if word.startswith("--")]
    return [flag for flag in flags if flag not in known]


def commands(prefix: str) -> list[Any]:
    """Test cases: every shown command that starts with `prefix`, after the variables that are set for it."""
    found = []
    for page in PAGES:
        lines = [re.sub(r"^(?:[A-Z_]+=\S+ +)+", "", line) for line in code_lines(page)]
        found += [
            pytest.param(line, id=f"{page.stem}: {line[:60]}")
            for line in dict.fromkeys(lines)
            if line.startswith(prefix)
        ]
    assert len(found) > 10, f"the pages show only {len(found)} commands that start with {prefix}"
    return found


@pytest.mark.parametrize("line", commands("llava-mocle "))
def test_a_command_parses(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, subcommand, *words = words_of(line)
    try:
        args, rest = _subcommand_parser(subcommand).parse_known_args(words)
    except SystemExit:
        pytest.fail(f"{line}\n{capsys.readouterr().err}")
    if getattr(args, "takes_overrides", False):
        assert wrong_flags(rest, recipe_flags()) == []
    else:
        assert rest == []


@pytest.mark.parametrize("line", commands("bash scripts/"))
def test_a_script_exists_and_takes_these_flags(line: str) -> None:
    _, script, *words = words_of(line)
    assert (ROOT / script).is_file()
    known = flags_of("eval") | MODEL_VQA_FLAGS if "eval" in script else recipe_flags()
    if script.startswith("scripts/data/"):
        known = flags_of("data")
    assert wrong_flags(words, known) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_the_text_names_exists(page: Path) -> None:
    every_flag = {flag for name in SUBCOMMANDS for flag in flags_of(name)} | MODEL_VQA_FLAGS | FOREIGN_FLAGS
    every_flag |= {text for action in llava_cli.make_parser("", None)._actions for text in action.option_strings}
    wrong = []
    for span in [*spans(page), *code_lines(page)]:
        found = re.match(r"(?:[A-Z_]+=\S+ )*llava-mocle ([a-z]\w*)(.*)", span)
        if found and found[1] not in SUBCOMMANDS:
            wrong.append(span)
        known = flags_of(found[1]) if found and found[1] in SUBCOMMANDS else every_flag
        wrong += [flag for flag in re.findall(r"(?<![\w-])--[a-z][\w-]*", span) if flag not in known]
    assert wrong == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_files_and_modules_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = [
        path
        for path in re.findall(r"(?<![\w./-])((?:scripts|zero_configs|benchmarks|tests|llava_mocle)/[\w./-]*\w)", text)
        if not (ROOT / path).exists() and path != "scripts/environment.sh"  # the user's own
    ]
    wrong += [name for name in re.findall(r"-m ((?:playground|benchmarks)\.\w+)", text) if not find_spec(name)]
    wrong += [name for name in re.findall(r"\bllava_mocle(?:\.[A-Za-z_]\w*)+", text) if not _is_there(name)]
    for target in re.findall(r"\]\(([^)#]+\.md)(?:#[\w-]+)?\)", text):
        if not (page.parent / target).is_file():
            wrong.append(target)
    assert wrong == []


def _is_there(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module holds."""
    place, _, last = name.rpartition(".")
    try:
        if find_spec(name) is not None:
            return True
    except ModuleNotFoundError:  # `place` is a module without modules inside
        pass
    return hasattr(import_module(place), last)


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_into_a_page_find_their_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]*)#([\w-]+)\)", page.read_text(encoding="utf-8"))
    wrong = [
        f"{target}#{anchor}"
        for target, anchor in links
        if anchor not in _anchors(page.parent / target if target else page)
    ]
    assert wrong == []
