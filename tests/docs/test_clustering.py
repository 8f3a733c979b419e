"""The snippet of docs/clustering.md runs on a small cluster model."""

from pathlib import Path

import pytest

from tests.docs.snippets import run_page


def test_the_page_assigns_a_text(user_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = run_page("clustering")
    assert names["text"] == "What is the length of AB?"
    assert names["cluster_ids"].shape == names["distances"].shape == (1,)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 5
    assert all(" x  " in line for line in printed)
