import pytest

from llava_mocle.errors import AssetError
from playground import prepare


def test_step_runs_once_until_its_inputs_change(tmp_path):
    folder, runs = tmp_path / "made", []

    def make():
        folder.mkdir(exist_ok=True)
        runs.append(1)

    assert prepare.run_step("x", folder, "one", make)
    assert not prepare.run_step("x", folder, "one", make)
    assert prepare.run_step("x", folder, "two", make)
    assert len(runs) == 2


def test_failed_step_is_not_taken_for_done(tmp_path):
    folder = tmp_path / "made"
    prepare.run_step("x", folder, "one", lambda: folder.mkdir())

    def fail():
        raise AssetError("broken")

    with pytest.raises(AssetError):
        prepare.run_step("x", folder, "two", fail)
    assert not prepare.is_current(folder, "one")
    assert not prepare.is_current(folder, "two")


def test_fingerprint_sees_contents_and_words(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("1")
    first = prepare.fingerprint([path], "w")
    assert first == prepare.fingerprint([path], "w")
    assert first != prepare.fingerprint([path], "v")
    path.write_text("2")
    assert first != prepare.fingerprint([path], "w")


def test_missing_packages_are_named_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "_NEEDED_MODULES", ("os", "no_such_module_here"))
    monkeypatch.setattr(prepare.fetch_assets, "fetch", lambda **kwargs: pytest.fail("fetched"))
    with pytest.raises(AssetError, match=r"no_such_module_here.*pip install"):
        prepare.prepare(tmp_path / "assets", tmp_path / "base", tmp_path / "data")


def test_captions_of_all_domains_are_joined(tmp_path):
    for name in prepare.MODULES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "captions.json").write_text(f'[{{"id": "{name}"}}]')
    prepare.join_captions(tmp_path)
    assert [row["id"] for row in prepare.read_rows(tmp_path / "captions.json")] == list(prepare.MODULES)
