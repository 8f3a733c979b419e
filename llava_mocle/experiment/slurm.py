"""A comparison as arrays of SLURM jobs: one task a run, a second array behind the search, and the report behind all."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.io.files import write_text

_SCRIPT = """#!/usr/bin/env bash
# Written by `llava-mocle compare {design} --slurm`. It submits itself:
#
#   bash {script} [FLAGS OF SBATCH, such as --partition=gpu --gpus=1 --time=4:00:00 --account=me]
#
# Each task of an array is one run. A task that is preempted is requeued, and its run goes on from its checkpoint.
#SBATCH --job-name=compare
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=USR1@300
#SBATCH --output={logs}/%x-%A_%a.out
set -euo pipefail
cd {folder}
COMPARE=({command})

if [ -z "${{SLURM_JOB_ID:-}}" ]; then
    mkdir -p {logs}
    after=()
{submissions}
    sbatch "$@" ${{after[@]+"${{after[@]}}"}} --export=ALL,COMPARE_TASK=report {script}
    exit
fi
if [ "$COMPARE_TASK" = report ]; then
    exec "${{COMPARE[@]}}" --report-only
fi
code=0
"${{COMPARE[@]}}" --run "$SLURM_ARRAY_TASK_ID" & child=$!
# SLURM tells the script alone, which passes it on and waits for the checkpoint.
trap 'kill -USR1 "$child"' USR1 TERM
while true; do
    code=0
    wait "$child" || code=$?
    kill -0 "$child" 2>/dev/null || break
done
if [ "$code" = 75 ]; then
    scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
fi
exit "$code"
"""
_SUBMISSION = """\
    job=$(sbatch --parsable "$@" ${{after[@]+"${{after[@]}}"}} --array={first}-{last} \\
        --export=ALL,COMPARE_TASK=run {script})
    after=(--dependency="afterany:${{job%%;*}}")"""


def write_script(root: Path, design: Path, parts: Sequence[int], flags: Sequence[str] = ()) -> Path:
    """Write `compare.sbatch` into the experiment's folder.

    Args:
        design: the YAML of the comparison.
        parts: the number of runs of each array, in order: each starts when the one before has ended.
        flags: of `llava-mocle compare`, for every task.
    """
    script = (root / "compare.sbatch").absolute()
    submissions, first = [], 0
    for count in parts:
        if count:
            last = first + count - 1
            submissions.append(_SUBMISSION.format(first=first, last=last, script=shlex.quote(str(script))))
        first += count
    words = [sys.executable, "-m", "llava_mocle.cli.main", "compare", str(design.absolute()), *flags]
    text = _SCRIPT.format(
        design=design,
        script=shlex.quote(str(script)),
        logs=shlex.quote(str((root / "slurm").absolute())),
        folder=shlex.quote(str(Path.cwd())),
        command=shlex.join(words),
        submissions="\n".join(submissions),
    )
    write_text(script, text)
    return script
