"""Lengths are measured once for a content and the settings that decide them."""

import copy
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from llava_mocle.data import measure_cache
from llava_mocle.data.measure_cache import remembered, settings_key
from llava_mocle.data.row_table import RowTable
from llava_mocle.data.rows import read_rows, rows_cache_dir
from llava_mocle.data.templates import get_template
from tests.data.conftest import CHATML, make_row


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RowTable:
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measure_cache, "WORTH_KEEPING", 0.0)
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([make_row("q", "a"), make_row("q", "a")]))
    return read_rows(path)


def never() -> np.ndarray:
    raise AssertionError("measured again")


def test_measured_once(table: RowTable, tmp_path: Path) -> None:
    lengths = np.array([3, -1])
    assert remembered(table, "key", lambda: lengths) is lengths
    assert remembered(table, "key", never).tolist() == [3, -1]
    assert remembered(table, "other", lambda: lengths + 1).tolist() == [4, 0]
    (tmp_path / "other.json").write_text(json.dumps([make_row("q", "b"), make_row("q", "a")]))
    assert remembered(read_rows(tmp_path / "other.json"), "key", lambda: lengths + 2).tolist() == [5, 1]
    for rows, key in (([{}, {}], "key"), (table, None)):
        with pytest.raises(AssertionError, match="measured again"):
            remembered(rows, key, never)


@pytest.mark.parametrize("damage", [b"", b"noise" * 50, None])
def test_damaged_lengths_are_measured_again(damage: bytes | None, table: RowTable) -> None:
    remembered(table, "key", lambda: np.array([3, 4]))
    (file,) = rows_cache_dir().glob("*.npy")
    if damage is None:
        np.save(file, np.array([3]))
    else:
        file.write_bytes(damage)
    with pytest.warns(UserWarning, match=f"{file.name}: damaged"):
        assert remembered(table, "key", lambda: np.array([3, 4])).tolist() == [3, 4]
    assert remembered(table, "key", never).tolist() == [3, 4]


def test_quick_measures_and_full_disks_keep_nothing(table: RowTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_cache, "WORTH_KEEPING", 60.0)
    remembered(table, "key", lambda: np.array([3, 4]))
    assert list(rows_cache_dir().glob("*.npy")) == []
    monkeypatch.setattr(measure_cache, "WORTH_KEEPING", 0.0)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
    with pytest.warns(UserWarning, match="are not kept .no space left"):
        assert remembered(table, "key", lambda: np.array([3, 4])).tolist() == [3, 4]
    assert [file.suffix for file in rows_cache_dir().iterdir()] == [".arrow"]


def test_what_decides_a_length_is_in_the_key(chatml: PreTrainedTokenizerFast) -> None:
    template = get_template("vicuna_v1", chatml)
    base = settings_key(template, chatml, 1, 2, 3)
    assert base is not None
    assert base == settings_key(get_template("v1", chatml), copy.deepcopy(chatml), 1, 2, 3)
    larger = copy.deepcopy(chatml)
    larger.add_tokens(["<new>"])
    dated, other = copy.deepcopy(chatml), copy.deepcopy(chatml)
    dated.chat_template = CHATML + "{{ strftime_now('%d') }}"
    other.chat_template = CHATML + " "
    keys = [
        base,
        settings_key(template, chatml, 1, 2, None),
        settings_key(template, chatml, 1, 3, 3),
        settings_key(template, larger, 1, 2, 3),
        settings_key(get_template("vicuna_v1", chatml, system=""), chatml, 1, 2, 3),
        settings_key(dataclasses.replace(template, end="<e>"), chatml, 1, 2, 3),  # type: ignore[type-var]
        settings_key(get_template("plain", chatml), chatml, 1, 2, 3),
        settings_key(get_template("chat", chatml), chatml, 1, 2, 3),
        settings_key(get_template("chat", other), other, 1, 2, 3),
    ]
    assert len(set(keys)) == len(keys)
    assert None not in keys
    assert settings_key(get_template("chat", dated), dated, 1, 2, 3) is None
    assert settings_key(template, object(), 1, 2, 3) is None
