"""Nothing that the documents show for typing goes without a test: a new snippet or command fails here without one."""

import ast
import re
import shlex
from pathlib import Path

import pytest

from llava_mocle.evaluation import join_chunks, llava_cli
from llava_mocle.recipe.llava_flags import as_llava
from llava_mocle.recipe.recipe import load_recipe
from tests.docs.test_commands import PAGES, ROOT, code_lines

_PROGRAMS = "llava-mocle|bash|python|deepspeed|torchrun|accelerate|sbatch|srun|make|source|pip|cp|curl|git|export"
_SHELL = re.compile(rf"^(?:[A-Z_]+=\S* +)*(?:{_PROGRAMS}) ")

# What "..." stands for in the pages: flags of LLaVA's own script that have no default here.
_ELSEWHERE = ["--version", "v1", "--mm_projector_type", "mlp2x_gelu", "--lora_enable", "True"]


def fenced(page: Path, language: str) -> list[str]:
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)


def pages_that_tests_run() -> set[str]:
    """The pages that a test gives to `run_page`."""
    names = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "run_page":
                names.add(ast.literal_eval(node.args[0]))
    return names


def test_every_page_with_python_is_run() -> None:
    """`run_page` runs every block of a page."""
    with_python = {page.stem for page in PAGES if fenced(page, r"(?:python|py)\b.*?")}
    assert with_python == pages_that_tests_run()


def test_every_block_says_what_it_is() -> None:
    """Code in a block of another name would be looked at by no test."""
    known = {"bash", "python", "json", "yaml", ""}
    wrong = []
    for page in PAGES:
        openers = re.findall(r"^ *```(\S*).*$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[::2]
        wrong += [f"{page.name}: {name}" for name in openers if name not in known]
    assert wrong == []


def shell_commands() -> list:
    """Test cases: every line of a bash block, and what looks like a command in other code."""
    found = {}
    for page in PAGES:
        lines = [line for block in fenced(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
        lines += [line for line in code_lines(page) if _SHELL.match(line)]
        for line in lines:
            if line.strip() and not line.lstrip().startswith("#"):
                found[line.strip()] = page.stem
    assert len(found) > 40
    return [pytest.param(line, id=f"{page}: {line[:60]}") for line, page in found.items()]


@pytest.mark.parametrize("line", shell_commands())
def test_every_command_is_of_a_kind_that_is_checked(line: str) -> None:
    for command in re.split(r" (?:&&|\|\||\|) ", re.sub(r"\s#.*", "", line)):
        check(re.sub(r"^(?:[A-Z_]+=\S* +)+", "", command.strip()))


def check(command: str) -> None:
    """Check a command, unless test_commands.py does."""
    words = [word for word in shlex.split(command) if word not in ("...", "…", "N")]
    if command.startswith(("llava-mocle ", "bash scripts/")):
        return
    match words:
        case ["python", "-m", "llava_mocle.train_mem", *flags] | ["deepspeed", "llava_mocle/train_mem.py", *flags]:
            if "--resolve" in flags:  # of the command, as `llava-mocle train` has it
                del flags[flags.index("--resolve") : flags.index("--resolve") + 2]
            load_recipe(None, as_llava([*_ELSEWHERE, *flags]))
        case ["python", "-m", "llava_mocle.evaluation.join_chunks", *flags]:
            assert {word for word in flags if word.startswith("--")} <= flags_of(join_chunks)
        case ["python", "-m", module, *flags] if module.startswith("llava_mocle.evaluation.model_vqa"):
            llava_cli.make_parser("model_vqa", "").parse_args(flags)
        case ["bash", script, *_] if script.endswith("/compare.sbatch"):  # tests/cli/test_compare.py runs it
            pass
        case ["make", *targets]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []
        case ["cp", source, _]:
            assert (ROOT / source).is_file()
        case ["curl", "-s", url, *_]:  # tests/serving/test_front.py asks there
            assert url.endswith("/v1/chat/completions")
        case ["python", "-m", "lmms_eval", *_]:  # another project's
            pass
        case ["source", ".venv/bin/activate"]:
            pass
        case _:
            pytest.fail(f"no test looks at a command like `{command}`: add its kind here")


def flags_of(module) -> set[str]:
    """The flags that a small program declares in its source."""
    text = Path(module.__file__).read_text(encoding="utf-8")
    return set(re.findall(r'add_argument\(\s*"(--[\w-]+)"', text))
