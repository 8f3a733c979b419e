import ast
import io
import sys
from pathlib import Path

import pytest
from rich.table import Table

import llava_mocle.cli
from llava_mocle.io.console import print_table, say, table_console

NAMES = [f"a_metric_with_a_rather_long_name_{number}" for number in range(6)]


def print_names() -> None:
    table = Table()
    for name in NAMES:
        table.add_column(name)
    table.add_row(*NAMES)
    print_table(table_console(), table)


def test_a_log_holds_whole_names(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    print_names()
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


FILES = [f"part-{number}-of-a-long-file-name.parquet" for number in range(2)]
SENTENCE = "a sentence that tells at some length what is in a file and may be wrapped between its words"


@pytest.mark.parametrize("columns", [40, 80, 120, 300])
def test_a_table_obeys_columns_and_breaks_no_word(columns: int, capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table = Table("name", "what", "n", title=f"files of {'x' * 60} [bold]")
    for name in FILES:
        table.add_row(name, SENTENCE, "1,234")
    print_table(table_console(), table)
    title, *lines = capsys.readouterr().out.splitlines()
    assert title == f"files of {'x' * 60} [bold]"
    assert all(sum(name in line for line in lines) == 1 for name in FILES)
    # What cannot shrink: a file name, "sentence", "1,234", and ten characters of frames.
    narrowest = len(FILES[0]) + 8 + 5 + 10
    assert max(map(len, lines)) <= max(columns, narrowest)
    assert (max(map(len, lines)) < columns) == (columns == 300)
    words = " ".join(line.split("│")[2].strip() for line in lines if line.count("│") == 4).split()
    assert words == 2 * SENTENCE.split()


def test_a_pipe_without_columns_has_no_limit(capsys, monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    table = Table("name", "what")
    table.add_row(FILES[0], SENTENCE)
    print_table(table_console(), table)
    assert any(FILES[0] in line and SENTENCE in line for line in capsys.readouterr().out.splitlines())


def test_a_line_is_said_as_it_is(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    say(table_console(), f"[red]{FILES[0]}", SENTENCE)
    assert capsys.readouterr().out == f"[red]{FILES[0]}\n{SENTENCE}\n"
