"""Processes and ports of tests: ports that nobody takes meanwhile, and process trees that end with their test."""

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Below the kernel's range for outgoing connections, any of which may get a port that is free now; and below the ports
# that SLURM jobs derive from their numbers.
PORTS = range(10000, 14999)


def free_port() -> int:
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """Different ports on which nobody listens, on any address."""
    found: list[int] = []
    # Not by the seed, which several test workers may share.
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        if len(found) == count:
            break
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        found.append(port)
    return found


def children(pid: int) -> list[int]:
    """The direct child processes; none of a process that has ended."""
    try:
        return [int(word) for file in Path(f"/proc/{pid}/task").glob("*/children") for word in file.read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    return [own for child in children(pid) for own in (child, *descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that has ended and was not waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: Iterable[int], seconds: float = 10) -> list[int]:
    """Those that are still alive after this time; they are killed."""
    until, pids = time.monotonic() + seconds, list(pids)
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    left = [pid for pid in pids if is_alive(pid)]
    for pid in left:
        kill_tree(pid)
    return left


def kill_tree(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)  # so that it starts no more of them
        for child in children(pid):
            kill_tree(child)
        os.kill(pid, signal.SIGKILL)


@contextmanager
def ended(*processes: subprocess.Popen) -> Iterator[None]:
    """Nothing of these processes' trees outlives the block."""
    try:
        yield
    finally:
        for process in processes:
            if process.poll() is None:
                kill_tree(process.pid)
                process.wait()
