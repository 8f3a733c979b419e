"""Stand-ins for python, sbatch, srun and scontrol, which write down how they were called."""

import json
import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Appends its name and words to calls.jsonl; then does what the test put into STUB_<NAME>.
RECORDER = """#!/usr/bin/env python3
import json, os, subprocess, sys
name = os.path.basename(sys.argv[0])
with open({calls!r}, "a") as out:
    print(json.dumps([name, *sys.argv[1:]]), file=out)
if "--resolve" in sys.argv:
    open(sys.argv[sys.argv.index("--resolve") + 1], "w").write("resolved")
sys.exit(subprocess.run(["bash", "-c", os.environ.get("STUB_" + name.upper(), "exit 0"), *sys.argv]).returncode)
"""


class Stubs:
    """A folder at the head of PATH; `run` starts a script of the repository with it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.calls_file = folder / "bin", folder / "calls.jsonl"
        self.folder.mkdir()
        for name in ("python", "sbatch", "srun", "scontrol"):
            stub = self.folder / name
            stub.write_text(RECORDER.format(calls=str(self.calls_file)))
            stub.chmod(0o755)
        hook = folder / "no_environment.sh"
        hook.touch()
        # What a machine or an outer job may have set would change what is tested.
        outer = ("SLURM_", "LLAVA_MOCLE_", "STUB_", "DS_ENV", "CUDA_VISIBLE")
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith(outer)}
        self.environment |= {
            "PATH": f"{self.folder}:{os.environ['PATH']}", "PYTHON": str(self.folder / "python"), "NPROC": "1",
            "LLAVA_MOCLE_ENV": str(hook), "HOME": str(folder), "TMPDIR": str(folder),
        }  # fmt: skip

    def command(self, script: str, *words: str) -> list[str]:
        return ["bash", str(ROOT / "scripts" / script), *words]

    def job_command(self, script: str, *words: str) -> list[str]:
        """As slurmd starts a file: a copy of it, of this name."""
        return ["bash", shutil.copy(ROOT / "scripts" / script, self.folder / "slurm_script"), *words]

    def run(self, script: str, *words: str, **variables: str) -> subprocess.CompletedProcess:
        command = (self.job_command if "SLURM_JOB_ID" in variables else self.command)(script, *words)
        return subprocess.run(
            command, env=self.environment | variables, cwd=self.folder.parent,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def calls(self, name: str = "") -> list[list[str]]:
        """The calls so far, in order; of one stub, without its name."""
        lines = self.calls_file.read_text().splitlines() if self.calls_file.exists() else []
        every = [json.loads(line) for line in lines]
        return [call[1:] for call in every if call[0] == name] if name else every
