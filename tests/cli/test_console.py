import ast
import io
import sys
from pathlib import Path

import pytest
from rich.table import Table

import llava_mocle.cli
from llava_mocle.cli.console import table_console

NAMES = [f"a_metric_with_a_rather_long_name_{number}" for number in range(6)]


def print_table() -> None:
    table = Table()
    for name in NAMES:
        table.add_column(name)
    table.add_row(*NAMES)
    table_console().print(table)


def test_a_log_holds_whole_names(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_table()
    printed = capsys.readouterr().out
    assert all(printed.count(name) == 2 for name in NAMES)
    assert max(map(len, printed.splitlines())) < 300  # as wide as the table


def test_a_terminal_keeps_its_width(monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", Terminal())
    assert table_console().width == 80


@pytest.mark.parametrize("path", sorted(Path(llava_mocle.cli.__file__).parent.glob("*.py")), ids=lambda path: path.name)
def test_all_rooms_print_on_it(path) -> None:
    if path.name == "console.py":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Console":
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert options.get("stderr") == "True", f"{path}:{node.lineno}: tables go on table_console()"
