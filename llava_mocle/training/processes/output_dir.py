"""The output folder belongs to one run at a time, and is the same folder on every machine."""

import json
import logging
import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from accelerate import PartialState

from llava_mocle.errors import ConfigError
from llava_mocle.io.files import lock
from llava_mocle.training.processes.group import on_main

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
# On a network file system another machine's file may become visible some seconds late.
_PATIENCE_S = 30.0


@contextmanager
def claimed(output_dir: str | Path) -> Iterator[None]:
    """Hold the folder for this run. The lock ends with the process that holds it, however that ends.

    Raises:
        ConfigError: another run writes there now, or the ranks do not see the same folder.
    """
    folder = Path(output_dir)
    held = on_main(lambda: _lock(folder))
    try:
        check_shared(folder)
        yield
    finally:
        if PartialState().is_main_process:
            os.close(held)


def _lock(folder: Path) -> int:
    """An open, locked descriptor."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    if not lock(descriptor, path):
        other = os.read(descriptor, 1000).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise ConfigError(
            f"output_dir {folder}: another run is writing there ({other}); wait for it, or choose another output_dir"
        )
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "slurm_job": os.environ.get("SLURM_JOB_ID")}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    return descriptor


def check_shared(folder: Path) -> None:
    """Check that every rank sees what rank 0 writes: otherwise checkpoints would lack the other machines' parts.

    Raises:
        ConfigError: this rank does not see it.
    """
    state = PartialState()
    if state.num_processes == 1:
        return
    probe = folder / on_main(lambda: f".probe-{secrets.token_hex(4)}")
    if state.is_main_process:
        probe.touch()
    until = time.monotonic() + _PATIENCE_S
    while not probe.exists():
        if time.monotonic() > until:
            raise ConfigError(
                f"output_dir {folder}: rank {state.process_index} on {socket.gethostname()} does not see the file that "
                "rank 0 wrote there; give a folder on a filesystem that all machines share"
            )
        time.sleep(0.1)
    state.wait_for_everyone()
    if state.is_main_process:
        probe.unlink()
