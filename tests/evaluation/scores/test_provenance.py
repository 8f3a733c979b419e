"""What is kept with a result."""

import subprocess
import sys

from llava_mocle.evaluation.scores.provenance import command, items_digest, versions


def test_versions_are_of_what_runs() -> None:
    assert versions()["python"] == ".".join(map(str, sys.version_info[:3]))
    assert {"llava_mocle", "torch", "transformers"} <= set(versions())


def test_the_command_is_one_that_a_shell_takes_back() -> None:
    code = "from llava_mocle.evaluation.scores.provenance import command; print(command())"
    printed = subprocess.run([sys.executable, "-c", code, "a b"], capture_output=True, text=True, check=True).stdout
    again = subprocess.run(printed.strip(), shell=True, capture_output=True, text=True, check=True).stdout
    assert "'a b'" in printed
    assert again == printed
    assert command()


def test_the_command_holds_no_secret() -> None:
    code = "from llava_mocle.evaluation.scores.provenance import command; print(command())"
    words = ["--judge-url", "http://me:my-secret@host/v1", "--hub_token", "my-secret"]
    printed = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True).stdout
    assert "--judge-url 'http://***@host/v1' --hub_token '***'" in printed
    assert "my-secret" not in printed


def test_a_digest_tells_items_apart() -> None:
    items = [(1, "Where?", "Zürich"), (2, "Who?", None)]
    assert items_digest(items) == items_digest([list(item) for item in items])
    assert (
        len({items_digest(changed) for changed in (items, items[:1], items[::-1], [*items[:1], (2, "Who?", "I")])}) == 4
    )
    assert items_digest(["\ud800"])  # half a character, as a damaged file may hold
