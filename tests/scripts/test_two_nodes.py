"""The scripts on two nodes without SLURM: they meet, train over the network; a signal to one saves and ends both."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ended
from tests.scripts import two_nodes
from tests.scripts.stubs import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[two_nodes.TwoNodes]:
    reason = two_nodes.missing()
    if reason:
        pytest.skip(reason)
    with two_nodes.TwoNodes() as made:
        yield made


def wait_for(text: str, log: Path, processes: list[subprocess.Popen]) -> None:
    end = time.monotonic() + 400
    while text not in log.read_text():
        assert time.monotonic() < end, log.read_text()[-5000:]
        assert all(process.poll() is None for process in processes), log.read_text()[-5000:]
        time.sleep(0.1)


# The deepspeed launcher by ssh is left out: to stop a run it kills by name, on every node it reaches.
@pytest.mark.parametrize(("launcher", "sent"), [("torchrun", signal.SIGTERM), ("hostfile", signal.SIGUSR1)])
def test_two_nodes_train_and_a_signal_to_one_saves_and_ends_both(
    nodes: two_nodes.TwoNodes, recipe_file, tmp_path: Path, launcher: str, sent: signal.Signals
) -> None:
    recipe = recipe_file(max_steps=5000, cluster_model=str(tmp_path / "fresh_clusters"))
    common = {"MASTER_ADDR": nodes.addresses[0], "MASTER_PORT": "29512", "PYTHON": sys.executable, "NPROC": "1"}
    if launcher == "torchrun":
        common["NNODES"] = "2"
    else:
        hosts = tmp_path / "hosts"
        hosts.write_text("".join(f"{name} slots=1\n" for name in nodes.names))
        common["HOSTFILE"] = str(hosts)
    logs = [tmp_path / "node0.log", tmp_path / "node1.log"]
    processes = []
    for rank, log in enumerate(logs):
        command = nodes.command(rank, "bash", str(ROOT / "scripts" / "finetune_mocle.sh"), str(recipe))
        environment = os.environ | common | {"NODE_RANK": str(rank), "OMP_NUM_THREADS": "1"}
        with open(log, "w") as out:
            processes.append(subprocess.Popen(command, env=environment, cwd=ROOT, stdout=out, stderr=out))
    with ended(*processes):
        wait_for("step     3", logs[0], processes)
        processes[1].send_signal(sent)
        codes = [process.wait(120) for process in processes]
    texts = [log.read_text() for log in logs]
    assert codes == [75, 75], texts[0][-3000:] + texts[1][-3000:]
    assert "distinct instructions" in texts[0]  # the first node alone checks and clusters
    assert "distinct instructions" not in texts[1]
    assert f"waits for node 0 at {nodes.addresses[0]} port 29512" in texts[1]
    assert len(list((tmp_path / "run").glob("checkpoint-*"))) == 1
