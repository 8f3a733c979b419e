"""Steps that run once: a step is skipped while its command, its inputs and the steps before it are unchanged."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
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
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, *steps: Step) -> bool:
        """Run the steps that are not done, side by side on shares of the CPU cores; returns whether any ran.

        Steps that run together must not need each other.

        Raises:
            SystemExit: a command failed; its exit code becomes ours. Those beside it are stopped, and go on when
                the same is run again.
        """
        keys = [self._key(step) for step in steps]
        self.key = keys[0] if len(keys) == 1 else hashlib.sha256("".join(keys).encode()).hexdigest()
        due = []
        for step, key in zip(steps, keys, strict=True):
            print(f"\n== {step.title}")
            if _content(self._stamp(step)) == key and all(path.exists() for path in step.outputs):
                print("   unchanged since the last run; reused")
                continue
            self._make_ready(step, key)
            print("   $ " + " ".join(str(word) for word in step.command), flush=True)
            due.append((step, key))
        if not due:
            return False
        began = time.monotonic()
        processes = {self._start(step, len(due)): (step, key) for step, key in due}
        failed = 0
        with ThreadPoolExecutor(len(processes)) as pool:
            watched = {pool.submit(_watch, process, step.name): process for process, (step, _) in processes.items()}
            for future in as_completed(watched):
                step, key = processes[watched[future]]
                code = future.result()
                if not code:
                    print(f"   {step.name}: {time.monotonic() - began:.0f} s", flush=True)
                    self._stamp(step).write_text(key)
                    self._started(step).unlink()
                elif not failed:
                    failed = code
                    print(f"\n{step.name} failed (exit code {code}); after mending it, the same command goes on here.")
                    for process in processes:
                        process.terminate()
        if failed:
            raise SystemExit(failed)
        return True

    def _key(self, step: Step) -> str:
        digest = hashlib.sha256(json.dumps([self.key, *map(str, step.command)]).encode())
        for path in step.inputs:
            digest.update(path.read_bytes())
        return digest.hexdigest()

    def _stamp(self, step: Step) -> Path:
        return self.folder / f"{step.name}.done"

    def _started(self, step: Step) -> Path:
        return self.folder / f"{step.name}.started"

    def _make_ready(self, step: Step, key: str) -> None:
        self._stamp(step).unlink(missing_ok=True)
        if _content(self._started(step)) != key:
            for path in step.outputs:
                path.unlink() if path.is_file() else shutil.rmtree(path, ignore_errors=True)
        self._started(step).write_text(key)

    def _start(self, step: Step, together: int) -> "subprocess.Popen[str]":
        words = [sys.executable if word == "python" else str(word) for word in step.command]
        settings = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        if together == 1:
            return subprocess.Popen(words, env=os.environ | settings, text=True)
        # Processes that each start a thread a core get in each other's way.
        threads = str(max(1, (os.cpu_count() or 1) // together))
        return subprocess.Popen(
            words,
            env={"OMP_NUM_THREADS": threads} | os.environ | settings,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


def _watch(process: "subprocess.Popen[str]", name: str) -> int:
    """Pass a process's lines on, each with its name, until it ends; returns its exit code."""
    for line in process.stdout or ():
        print(f"[{name}] {line}", end="", flush=True)
    return process.wait()


def _content(path: Path) -> str | None:
    return path.read_text() if path.is_file() else None
