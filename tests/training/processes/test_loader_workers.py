"""Loader workers that are killed, and rows that cannot be loaded: one line with file and row, wherever it happens."""

import functools
import json
import multiprocessing
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Client, Listener
from multiprocessing.reduction import DupFd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch.utils.data import DataLoader

from llava_mocle.data.images import load_image
from llava_mocle.errors import DataError
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.processes.loader_workers import (
    end_workers,
    is_worker_gone,
    isolate_workers,
    name_failed_rows,
    start_workers_safely,
)
from llava_mocle.training.run import train
from tests.processes import children, descendants, ended, wait_until_gone
from tests.training.ranks import ROOT, start
from tests.training.test_restart import has_reached, wait_for

ROW = r"pictures\.json: row \d+ \(id 'p\d+'\)"


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Workers stay at an image after the first few, and set this event."""
    parent, loaded, at_a_row = os.getpid(), [], multiprocessing.get_context("fork").Event()

    def load(path):
        assert os.getpid() != parent
        loaded.append(path)
        if len(loaded) > 6:
            at_a_row.set()
            time.sleep(600)
        return load_image(path)

    monkeypatch.setattr("llava_mocle.data.row_dataset.load_image", load)
    return at_a_row


@pytest.mark.parametrize("during", ["compute_loss", "save_model"])
def test_killed_while_the_main_process_is_busy(recipe_file, stuck, monkeypatch, tmp_path: Path, during: str) -> None:
    whole = getattr(MocleTrainer, during)

    def busy(trainer: MocleTrainer, *args, **kwargs):
        assert stuck.wait(60)
        multiprocessing.active_children()[0].kill()
        time.sleep(60)  # until torch's handler cuts it short with its report
        return whole(trainer, *args, **kwargs)

    monkeypatch.setattr(MocleTrainer, during, busy)
    keys = {"dataloader_num_workers": 1, "max_steps": 12, "save_strategy": "steps", "save_steps": 1}
    keys |= {"dataloader_prefetch_factor": 12}
    with pytest.raises(DataError, match=rf"a loader worker is gone \(DataLoader worker .*is killed.*{ROW}"):
        train(load_recipe(recipe_file(**keys, group_by_modality_length=False)))
    assert not multiprocessing.active_children()


def test_a_worker_that_had_nothing_to_do() -> None:
    report = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")
    with pytest.raises(DataError, match=r"worker \(pid 7\) is killed.*no worker was at a row"):
        name_failed_rows(lambda: fail(report), None)
    with pytest.raises(RuntimeError, match="boom"):
        name_failed_rows(lambda: fail(RuntimeError("boom")), None)


class Rows(list):
    """Rows of which the second keeps its worker busy, while the first does something to the other worker."""

    def __init__(self, first: Callable[[], Any]) -> None:
        super().__init__([0, 1])
        self.first = first
        self.busy = multiprocessing.get_context("fork").Event()

    def __getitem__(self, index: int) -> int:
        if index == 1:
            self.busy.set()
            time.sleep(600)
        assert self.busy.wait(60)
        return self.first()

    def rows_in_work(self) -> list[str]:
        return ["rows.json: row 1"]


def first_batch(rows: Rows) -> None:
    loader = DataLoader(rows, batch_size=1, num_workers=2, multiprocessing_context="fork")
    name_failed_rows(lambda: next(iter(isolate_workers(loader, seed=0))), rows)


def fail(error: Exception) -> Any:
    raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("size mismatch"), OSError("no such device"), ConnectionError("hub"), ValueError("odd")]
)
def test_an_error_beside_a_busy_worker_stays_what_it_is(error: Exception) -> None:
    with pytest.raises(type(error), match=rf"(?s)^Caught \w+ in DataLoader worker.*in fail.*{error}") as caught:
        first_batch(Rows(functools.partial(fail, error)))
    assert not is_worker_gone(caught.value)


def test_a_worker_that_is_killed_is_reported_with_the_rows() -> None:
    with pytest.raises(DataError, match=r"a loader worker is gone \(DataLoader worker \(pid.*rows\.json: row 1"):
        first_batch(Rows(lambda: os.kill(os.getpid(), signal.SIGKILL)))


def report_of(raising: Callable[[], Any]) -> Exception:
    """What a loader makes of an error of the main process, while a worker is busy."""
    with pytest.raises(Exception) as caught:  # noqa: PT011
        name_failed_rows(raising, Rows(int))
    return caught.value


@pytest.mark.parametrize(
    "error", [RuntimeError("CUDA error"), OSError(28, "No space left"), FileNotFoundError(2, "x"), EOFError()]
)
def test_an_error_of_the_main_process_stays_what_it_is(error: Exception) -> None:
    assert report_of(lambda: fail(error)) is error


def ask_a_dead_process(tmp_path: Path, how: str) -> None:
    """Errors as they are met while a batch is fetched."""
    address = str(tmp_path / "socket")
    with Listener(address) as listener:
        client = Client(address)
        server = listener.accept()
    if how == "hangs up":
        server.close()
        client.recv()
    elif how == "is gone with its socket":
        Client(address)
    else:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(address)
        Client(address)


@pytest.mark.parametrize("how", ["hangs up", "is gone with its socket", "is gone"])
def test_a_connection_that_breaks_is_a_dead_worker(tmp_path: Path, how: str) -> None:
    said = str(report_of(lambda: ask_a_dead_process(tmp_path, how)))
    assert said.startswith("a loader worker is gone (")
    assert "workers were at: rows.json: row 1" in said


@pytest.mark.parametrize(("thread", "gone"), [("pin memory thread for device 0", True), ("DataLoader worker 0", False)])
def test_a_connection_that_breaks_in_another_thread(thread: str, gone: bool) -> None:
    error = ConnectionResetError(f"Caught ConnectionResetError in {thread}.\nOriginal Traceback ...")
    assert isinstance(report_of(lambda: fail(error)), DataError) == gone


class LateReport(ConnectionResetError):
    """An error that has torch's handler of SIGCHLD run at the moment when somebody reads it."""

    run_handler: Callable[[], None]

    def __str__(self) -> str:
        self.run_handler()
        return ""


@pytest.mark.parametrize("moment", ["on its way", "when workers are ended", "when it is read"])
def test_torch_reports_the_death_after_the_lost_connection(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, moment: str
) -> None:
    """The kernel closes a process's connections before it tells the parent, and torch raises its report anywhere."""
    rows = Rows(int)
    iterator = iter(DataLoader(rows, batch_size=1, num_workers=2, multiprocessing_context="fork"))
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    assert callable(handler)
    victim = multiprocessing.active_children()[0]
    victim.kill()
    os.waitid(os.P_PID, victim.pid, os.WEXITED | os.WNOWAIT)

    def run_handler() -> None:
        before = signal.signal(signal.SIGCHLD, handler)
        try:
            signal.raise_signal(signal.SIGCHLD)
        finally:
            signal.signal(signal.SIGCHLD, before)

    def lose_connection() -> None:
        try:
            ask_a_dead_process(tmp_path, "hangs up")
        except EOFError as error:
            if moment == "on its way":
                run_handler()
            late = LateReport()
            late.run_handler = run_handler if moment == "when it is read" else lambda: None
            raise late.with_traceback(error.__traceback__) from None

    def children_of_main() -> list:
        run_handler()
        monkeypatch.undo()
        return multiprocessing.active_children()

    if moment == "when workers are ended":
        monkeypatch.setattr(multiprocessing, "active_children", children_of_main)
    try:
        with pytest.raises(DataError, match=r"a loader worker is gone .*rows\.json: row 1"):
            name_failed_rows(lose_connection, rows)
    finally:
        signal.signal(signal.SIGCHLD, handler)
        end_workers()
        del iterator


FORK_SERVER = """
import os
from multiprocessing import forkserver, get_context
from types import SimpleNamespace
from llava_mocle.training.processes.early_signals import SIGNALS
from llava_mocle.training.processes.loader_workers import start_workers_safely

if __name__ == "__main__":
    args = SimpleNamespace(dataloader_num_workers=2, world_size=2, dataloader_multiprocessing_context=None)
    start_workers_safely(args)
    server = forkserver._forkserver._forkserver_pid
    for number in SIGNALS:
        os.kill(server, number)
    process = get_context(args.dataloader_multiprocessing_context).Process(target=print, args=("served",))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert forkserver._forkserver._forkserver_pid == server
    assert args.dataloader_persistent_workers
"""


@pytest.mark.slow
def test_the_fork_server_outlives_signals(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FORK_SERVER)
    done = subprocess.run(
        [sys.executable, str(program)], env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "served\n", "")


@pytest.mark.parametrize(("workers", "ranks"), [(0, 2), (2, 1)])
def test_other_runs_start_no_fork_server(workers: int, ranks: int) -> None:
    args = SimpleNamespace(dataloader_num_workers=workers, world_size=ranks)
    start_workers_safely(args)
    assert vars(args) == {"dataloader_num_workers": workers, "world_size": ranks}


def test_workers_are_ended_in_silence() -> None:
    """And whoever listened for children before does so afterwards."""
    heard = []
    before = signal.signal(signal.SIGCHLD, lambda number, frame: heard.append(number))
    try:
        process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        process.start()
        end_workers()
        assert process.exitcode == -signal.SIGKILL
        assert heard == []
        os.kill(os.getpid(), signal.SIGCHLD)
        assert heard == [signal.SIGCHLD]
    finally:
        signal.signal(signal.SIGCHLD, before)


def share_a_file(files: multiprocessing.SimpleQueue, then: multiprocessing.SimpleQueue) -> None:
    """As a worker shares a batch's tensors."""
    loader = isolate_workers(DataLoader([0]), seed=0)
    loader.worker_init_fn(0)
    reading, _ = os.pipe()
    files.put(DupFd(reading))
    then.get()
    sys.excepthook(ValueError, ValueError("other errors are told"), None)


def test_a_worker_is_silent_about_a_main_process_that_hangs_up(capfd) -> None:
    """As it does in the middle of fetching a batch when it hears that another worker died."""
    context = multiprocessing.get_context("fork")
    files, then = context.SimpleQueue(), context.SimpleQueue()
    process = context.Process(target=share_a_file, args=(files, then))
    process.start()
    file = files.get()
    with socket.socket(socket.AF_UNIX) as hanging_up:
        hanging_up.connect(file._id[0])
    os.close(file.detach())  # the next one is served, after the first
    then.put("served")
    process.join(30)
    assert process.exitcode == 0
    said = capfd.readouterr().err
    assert "other errors are told" in said
    assert "Error" not in said.replace("ValueError", "")


class Stuck(list):
    """Rows at which a worker stays, and says so in a file."""

    def __init__(self, folder: Path) -> None:
        super().__init__([0])
        self.folder = folder

    def __getitem__(self, index: int) -> int:
        (self.folder / f"{os.getpid()}.worker").touch()
        time.sleep(60)
        return index


LOADER = """
import sys
from pathlib import Path
from torch.utils.data import DataLoader
from llava_mocle.training.processes.loader_workers import isolate_workers
from tests.training.processes.test_loader_workers import Stuck

if __name__ == "__main__":
    loader = DataLoader(Stuck(Path(sys.argv[2])), num_workers=2, batch_size=1, multiprocessing_context=sys.argv[1])
    next(iter(isolate_workers(loader, seed=0)))
"""


@pytest.mark.slow
@pytest.mark.parametrize("context", ["fork", "forkserver"])
def test_no_worker_outlives_a_killed_main_process(tmp_path: Path, context: str) -> None:
    """Not even one that is at a row: it would hold memory, and the output folder's lock."""
    program = tmp_path / "loader.py"
    program.write_text(LOADER)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, str(program), context, str(tmp_path)], env=environment)
    with ended(process):
        until = time.time() + 120
        while not list(tmp_path.glob("*.worker")):
            assert process.poll() is None
            assert time.time() < until
            time.sleep(0.05)
        workers = descendants(process.pid)
        assert int(next(tmp_path.glob("*.worker")).stem) in workers
        process.kill()
        process.wait()
        assert wait_until_gone(workers) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_missing_held_out_image_is_named(recipe_file, mix: list[dict], tmp_path: Path, workers: int) -> None:
    images = shutil.copytree(mix[0]["image_folder"], tmp_path / "images")
    held_out = Path(mix[0]["eval_data_path"])
    rows = json.loads(held_out.read_text())
    rows[2]["image"] = "gone.png"
    changed = tmp_path / "held_out.json"
    changed.write_text(json.dumps(rows))
    datasets = [mix[0] | {"image_folder": str(images), "eval_data_path": str(changed)}, mix[1]]
    keys = {"datasets": datasets, "eval_strategy": "steps", "eval_steps": 1, "dataloader_num_workers": workers}
    with pytest.raises(DataError, match=r"held_out\.json: row 2 .*gone\.png") as caught:
        train(load_recipe(recipe_file(**keys)))
    assert "Traceback" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_one_line_about_a_killed_worker(recipe_file, tmp_path: Path, count: int) -> None:
    words = ["--dataloader_num_workers", "2", "--max_steps", "4000"]
    ranks = start(tmp_path / "logs", recipe_file(), *words, count=count)
    wait_for(has_reached(ranks, 8), ranks)
    pid = ranks.processes[0].pid
    workers = descendants(pid) if count == 1 else [child for own in children(pid) for child in descendants(own)]
    os.kill(workers[-1], signal.SIGKILL)
    codes = ranks.wait(60)
    said = ranks.output()
    assert codes[0] == 2, said[-3000:]
    assert re.search(r"^error: a loader worker is gone", said, flags=re.MULTILINE)
    assert "Traceback" not in said
    assert "Exception ignored" not in said
    assert said.count("is killed by signal") <= 1
