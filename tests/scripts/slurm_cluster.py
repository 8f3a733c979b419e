"""A real SLURM of two nodes on this machine: own munge, own ports, own folder; nothing else's processes are touched."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from tests.processes import free_ports

COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue")
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={ports[0]}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool_%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd_%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=30
NodeName=fn0 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=8000
NodeName=fn1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=8000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=fn[0-1] Default=YES PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=fn[0-1] PriorityTier=10
"""


def missing() -> str | None:
    """Why no SLURM can be started here; None when one can."""
    if os.geteuid() != 0:
        return "starting a SLURM needs root"
    absent = [name for name in COMMANDS if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)} (make test-packages)" if absent else None


class SlurmCluster:
    """Two nodes, fn0 and fn1, of one CPU each; a context manager.

    Jobs of the partition `urgent` preempt those of the default partition, with a grace time.
    """

    def __init__(self) -> None:
        # Not pytest's own folder: the path of a socket may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.environment = os.environ | {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> "SlurmCluster":
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if len(self._daemons) == 4:
                self.cancel_all()
        finally:
            for daemon in reversed(self._daemons):
                daemon.terminate()
                try:
                    daemon.wait(20)
                except subprocess.TimeoutExpired:
                    daemon.kill()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _start(self) -> None:
        folder = self.folder
        (folder / "state").mkdir()
        key = folder / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o600)
        text = CONFIGURATION.format(host=socket.gethostname(), folder=folder, ports=free_ports(3))
        (folder / "slurm.conf").write_text(text)
        (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        names = {"socket": "munge.sock", "key": "munge.key", "log": "munge.log", "pid": "munge.pid", "seed": "seed"}
        options = [f"--{kind}{'' if kind == 'socket' else '-file'}={folder / name}" for kind, name in names.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        self._until(lambda: (folder / "munge.sock").exists(), "munge")
        self._daemon("slurmctld", "-D")
        for node in ("fn0", "fn1"):
            self._daemon("slurmd", "-D", "-N", node)
        self._until(lambda: self.ask("sinfo", "-h", "-o", "%T %D") == "idle 2", "two idle nodes")

    def _daemon(self, *command: str) -> None:
        with open(self.folder / f"{len(self._daemons)}-{command[0]}.log", "w") as log:
            self._daemons.append(subprocess.Popen(command, env=self.environment, stdout=log, stderr=log))

    def _until(self, ready, what: str) -> None:
        end = time.monotonic() + 60
        while not ready():
            if time.monotonic() > end:
                logs = "".join(f"{path.name}: {path.read_text()[-1500:]}\n" for path in self.folder.glob("*.log"))
                raise RuntimeError(f"SLURM did not come up, no {what}:\n{logs}")
            time.sleep(0.1)

    def ask(self, *command: str) -> str:
        """The command's output, empty when it fails."""
        result = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        return result.stdout.strip() if result.returncode == 0 else ""

    def field(self, job: str, name: str) -> str:
        """One field of `scontrol show job`, such as JobState."""
        words = self.ask("scontrol", "show", "job", "--oneliner", job).split()
        return next((word.split("=", 1)[1] for word in words if word.startswith(f"{name}=")), "")

    def cancel_all(self) -> None:
        for job in self.ask("squeue", "-h", "-o", "%i").split():
            self.ask("scancel", "--signal=KILL", "--full", job)
            self.ask("scancel", job)
        self._until(lambda: self.ask("squeue", "-h") == "", "empty queue")
