"""Prepare everything the demonstration needs: `python -m playground.prepare`.

Fetches the parts, builds the base model and makes the three domains. A step whose inputs haven't changed since it last
finished is skipped: each step leaves a stamp with a hash of what it was made from, written when it is done.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from llava_mocle.errors import AssetError, UserError
from playground import fetch_assets
from playground.domains import geometry, medical, natural
from playground.domains.rows import Row, majority_share, write_json
from playground.parts import GROUPS, PARTS
from playground.paths import BASE, DATA, PLAYGROUND, assets_dir

STAMP = ".made_from"
CALIBRATION_IMAGES = 120
MODULES = {module.NAME: module for module in (natural, geometry, medical)}
_NEEDED_MODULES = ("gguf", "efficientnet_lite_pytorch", "pydicom")


def fingerprint(sources: Iterable[Path], *words: object) -> str:
    """Hash of the contents of source files and of further words."""
    digest = hashlib.sha256(repr(words).encode())
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def is_current(folder: Path, key: str) -> bool:
    """Whether `folder` was made from what `key` stands for."""
    try:
        return (folder / STAMP).read_text(encoding="utf-8") == key
    except OSError:
        return False


def run_step(label: str, folder: Path, key: str, make: Callable[[], object]) -> bool:
    """Run `make`, which fills `folder`, unless the folder's stamp says that it is current.

    Returns:
        Whether the step ran.
    """
    if is_current(folder, key):
        print(f"{label}: already made", flush=True)
        return False
    (folder / STAMP).unlink(missing_ok=True)
    start = time.perf_counter()
    make()
    (folder / STAMP).write_text(key, encoding="utf-8")
    print(f"{label}: made in {time.perf_counter() - start:.1f} s", flush=True)
    return True


def check_packages() -> None:
    """Raises AssetError naming the packages of the `demo` extra that are missing, before anything is fetched."""
    missing = [name for name in _NEEDED_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise AssetError(f"Not installed: {', '.join(missing)}. Run: pip install 'llava_mocle[demo]'")


def part_sums(*groups: str) -> list[str]:
    """The checksums of the archives that the groups' parts come from."""
    names = {name for group in groups for name in GROUPS[group]}
    return [part.sha256 for part in PARTS if part.name in names]


def calibration_images(data: Path) -> list[Path]:
    """Training images of all domains, evenly spaced, that the vision features are standardized over."""
    names = sorted({row["image"] for row in read_rows(data / "captions.json")})
    return [data / name for name in names[:: max(1, len(names) // CALIBRATION_IMAGES)]]


def prepare_base(assets: Path, base: Path, data: Path) -> bool:
    """Build the base model unless it is current."""
    model_code = sorted((PLAYGROUND.parent / "llava_mocle" / "model").glob("*.py"))
    images = calibration_images(data)
    sources = [PLAYGROUND / "build_base.py", *model_code, *images]
    key = fingerprint(sources, part_sums("language", "vision"))

    def make() -> None:
        from playground.build_base import build_base

        build_base(assets, base, images)

    return run_step("base model", base, key, make)


def prepare_domain(name: str, assets: Path, data: Path, seed: int) -> bool:
    """Make one domain unless it is current; images of an earlier version are removed first."""
    key = fingerprint(sorted((PLAYGROUND / "domains").glob("*.py")), part_sums(name), seed)

    def make() -> None:
        shutil.rmtree(data / name, ignore_errors=True)
        MODULES[name].make(assets, data, seed)

    made = run_step(f"domain {name}", data / name, key, make)
    report(name, data)
    return made


def read_rows(path: Path) -> list[Row]:
    return json.loads(path.read_text(encoding="utf-8"))


def report(name: str, data: Path) -> None:
    """Print the sizes of a domain and what always giving the most frequent answer would score."""
    train, test = read_rows(data / name / "train.json"), read_rows(data / name / "test.json")
    images = [len({row["image"] for row in rows}) for rows in (train, test)]
    answer, share = majority_share(test)
    print(
        f"  {len(train)} training rows on {images[0]} images, {len(test)} test rows on {images[1]} other images; "
        f"majority answer '{answer}': {share:.2f}",
        flush=True,
    )


def join_captions(data: Path) -> None:
    """Join the domains' caption rows into `captions.json` for stage 1."""
    rows = [row for name in MODULES for row in read_rows(data / name / "captions.json")]
    write_json(data / "captions.json", rows)


def prepare(assets: Path, base: Path, data: Path, seed: int = 0, archives: Path | None = None) -> None:
    """Fetch, build and make whatever isn't current.

    Raises:
        AssetError: a part cannot be fetched, is damaged, or a package that reads it is missing.
    """
    check_packages()
    fetch_assets.fetch(root=assets, archives=archives)
    # Downloading is done with; nothing below may ask a model hub.
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    data.mkdir(parents=True, exist_ok=True)
    for name in MODULES:
        prepare_domain(name, assets, data, seed)
    join_captions(data)
    prepare_base(assets, base, data)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m playground.prepare", description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0, help="of the domains' random choices")
    parser.add_argument("--archives", type=Path, default=None, help="use package archives lying in this folder")
    args = parser.parse_args(argv)
    start = time.perf_counter()
    try:
        prepare(assets_dir(), BASE, DATA, args.seed, args.archives)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"prepared in {time.perf_counter() - start:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
