"""Steps that run once: a step is skipped while its command, its inputs and the steps before it are unchanged."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Step:
    """One command of the demonstration.

    Attributes:
        name: of its stamp file.
        title: what it does, for people.
        command: words; `python` stands for this interpreter.
        inputs: files whose content decides whether it must run again.
        outputs: folders or files it makes; removed before a run that starts anew, kept for one that was interrupted.
    """

    name: str
    title: str
    command: Sequence[str]
    inputs: Sequence[Path] = ()
    outputs: Sequence[Path] = field(default_factory=list)


def source_digest(folder: Path) -> str:
    """A digest of every Python file below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


class StepRunner:
    """Runs steps in order, keeping a stamp of each under `folder`."""

    def __init__(self, folder: Path, salt: str) -> None:
        self.folder = folder
        self.key = salt
        self.times: dict[str, float] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, step: Step) -> bool:
        """Run a step unless it is done; returns whether it ran.

        Raises:
            SystemExit: the command failed; its exit code becomes ours.
        """
        digest = hashlib.sha256(json.dumps([self.key, *map(str, step.command)]).encode())
        for path in step.inputs:
            digest.update(path.read_bytes())
        self.key = digest.hexdigest()
        stamp, started = self.folder / f"{step.name}.done", self.folder / f"{step.name}.started"
        print(f"\n== {step.title}")
        if _content(stamp) == self.key and all(path.exists() for path in step.outputs):
            print("   unchanged since the last run; reused")
            return False
        stamp.unlink(missing_ok=True)
        if _content(started) != self.key:
            for path in step.outputs:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        started.write_text(self.key)
        words = [sys.executable if word == "python" else str(word) for word in step.command]
        print("   $ " + " ".join(str(word) for word in step.command), flush=True)
        begin = time.monotonic()
        code = subprocess.run(
            words, env=os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        ).returncode
        if code:
            print(f"\nThis step failed (exit code {code}); after mending it, the same command goes on here.")
            raise SystemExit(code)
        self.times[step.name] = time.monotonic() - begin
        print(f"   {self.times[step.name]:.0f} s")
        stamp.write_text(self.key)
        started.unlink()
        return True


def _content(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
