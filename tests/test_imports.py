"""The map of the rooms holds: imports point downwards only, and no room has grown past one thought."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "llava_mocle"
# `model` may use what is below it: loading a checkpoint needs the adapter, the cluster model and the model's family.
LEVELS = {
    "errors": 0,
    "io": 0.5,
    "adapter": 1,
    "clustering": 1,
    "data": 1.4,
    "families": 1.5,
    "model": 1.6,
    "conversion": 2,
    "recipe": 2.5,
    "training": 3,
    "inference": 3,
    "export": 3.5,  # writes what engines read in place of inference
    "serving": 4,  # in front of inference, or of an engine that has what export wrote
    "planning": 4,
    "evaluation": 4,
    "experiment": 4.2,  # runs and judges whole recipes
    "analysis": 4.5,  # reads what evaluation and experiments wrote
    "cli": 5,
    "train_mem": 5.5,  # LLaVA's name of the command line
}
FILES = sorted(PACKAGE.rglob("*.py"))


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0].removesuffix(".py")


def imported_rooms(tree: ast.AST) -> list[tuple[int, str]]:
    rooms = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import; write it out"
            names = [node.module or ""]
            if node.module == "llava_mocle":
                names = [f"llava_mocle.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "llava_mocle" and len(parts) > 1 and not parts[1].startswith("__"):
                rooms.append((node.lineno, parts[1]))
    return rooms


def allowed(importer: str, imported: str) -> bool:
    return importer == imported or LEVELS[imported] < LEVELS[importer]


def test_the_rule_itself() -> None:
    assert allowed("training", "data")
    assert allowed("model", "adapter")
    assert not allowed("adapter", "clustering")
    assert not allowed("data", "training")
    assert imported_rooms(ast.parse("from llava_mocle.cli.main import main")) == [(1, "cli")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downwards(path: Path) -> None:
    importer = room_of(path)
    if importer == "__init__":
        return
    for line, imported in imported_rooms(ast.parse(path.read_text())):
        assert allowed(importer, imported), f"{path}:{line}: {importer} imports {imported}, which is not below it"


SIZE_RULE = (
    "300 lines a file and 60 a function are a warning sign, not a knife: ask whether it holds two thoughts, and part "
    "them if so. A file may grow to about 400 lines, and a function to about 80, where a cut would go through one "
    "thought; beyond that it holds two."
)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_holds_one_thought(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= 400, f"{path} has {lines} lines. {SIZE_RULE}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= 80, f"{path}:{node.lineno} {node.name} has {length} lines. {SIZE_RULE}"


def test_every_level_is_a_room() -> None:
    rooms = {room_of(path) for path in FILES} - {"__init__"}
    assert set(LEVELS) == rooms, "the levels and the folders of the package differ"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_own_imports_are_there(path: Path) -> None:
    """The type check lets a module pass that does not exist, and an import inside a function fails late."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llava_mocle":
            place = PACKAGE.parent.joinpath(*str(node.module).split("."))
            found = place.is_dir() or place.with_suffix(".py").is_file()
            assert found, f"{path}:{node.lineno}: there is no {node.module}"


def test_nothing_is_unpickled() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            # `pickletools` takes pickles apart and runs nothing of them.
            if isinstance(node, ast.Import):
                assert not {"pickle", "joblib", "cloudpickle"} & {alias.name for alias in node.names}, path
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in ("pickle", "joblib", "cloudpickle"), path
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
                options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert options.get("weights_only") == "True", f"{path}:{node.lineno}: torch.load without weights_only"


def test_only_the_command_line_exits() -> None:
    for path in FILES:
        if room_of(path) in ("cli", "evaluation"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            assert called not in ("sys.exit", "exit", "SystemExit"), f"{path}:{node.lineno}"
