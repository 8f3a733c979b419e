"""`make demo`: the whole method on real pretrained parts. `python -m playground.demo`.

Fetches the embedded parts, builds a LLaVA model from them, trains its projector, clusters the instructions of three
domains, trains MoCLE, scores held-out images before and after, and writes playground/out/report.html. Every step is an
ordinary command, printed as it runs; steps whose inputs did not change are reused.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

import llava_mocle
from llava_mocle.io.libraries import quiet_libraries
from playground.paths import BASE, DATA, DOMAINS, PLAYGROUND
from playground.prepare import STAMP
from playground.steps import Step, StepRunner, source_digest

ROOT = PLAYGROUND.parent
RUNS = PLAYGROUND / "runs"
OUT = PLAYGROUND / "out"
CLUSTERS = PLAYGROUND / "clusters"
RECIPES = ROOT / "scripts" / "recipes"
STAGE_1, STAGE_2 = RECIPES / "playground_pretrain.yaml", RECIPES / "playground_mocle.yaml"


def bf16_is_fast() -> bool:
    """Whether this machine multiplies bfloat16 in hardware; emulated, it would be slower than float32."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported()
    found = torch.cpu.get_capabilities()
    return bool(found.get("amx_bf16") or found.get("avx512_bf16"))


def data_digest() -> str:
    """A digest of what the preparation made: its own stamps."""
    stamps = [BASE / STAMP, *(DATA / domain / STAMP for domain in DOMAINS)]
    return "".join(path.read_text() for path in stamps)


def steps() -> list[Step]:
    """The commands of the demonstration, in order."""
    cli = ["python", "-m", "llava_mocle.cli.main"]
    stage_1, stage_2 = (str(path.relative_to(ROOT)) for path in (STAGE_1, STAGE_2))
    precision = ["--bf16", "true"] if bf16_is_fast() else []
    evaluate = ["--recipe", stage_2, "--batch-size", "32", "--max-new-tokens", "12"]
    before, after = OUT / "before", OUT / "after"
    return [
        Step("check", "check every row and image", [*cli, "data", "check", stage_2]),
        Step(
            "pretrain",
            "stage 1: the projector learns to name what is in the picture",
            [*cli, "train", stage_1, *precision],
            [STAGE_1],
            [RUNS / "pretrain"],
        ),
        Step(
            "cluster",
            "cluster the instructions",
            [*cli, "cluster", "--recipe", stage_2, "--overwrite"],
            [STAGE_2],
            [CLUSTERS],
        ),
        Step("mocle", "stage 2: MoCLE", [*cli, "train", stage_2, *precision], [STAGE_2], [RUNS / "mocle"]),
        Step(
            "before",
            "score the untrained model on held-out images",
            [
                *cli,
                "eval",
                "--model",
                str(BASE.relative_to(ROOT)),
                "--output",
                str(before.relative_to(ROOT)),
                *evaluate,
            ],
            [],
            [before],
        ),
        Step(
            "after",
            "score the trained model on the same images",
            [*cli, "eval", "--model", "playground/runs/mocle", "--output", str(after.relative_to(ROOT)), *evaluate],
            [],
            [after],
        ),
        Step(
            "report",
            "write the report",
            ["python", "-m", "playground.report"],
            [PLAYGROUND / "report.py"],
            [OUT / "figures", OUT / "report.html"],
        ),
    ]


def run_all(steps: list[Step], stamps: Path) -> float:
    """Prepare the parts and the data, and run every step that is not done yet.

    Args:
        stamps: the folder that says which are done.

    Returns:
        The minutes that it took.

    Raises:
        SystemExit: a command failed; its exit code becomes ours.
    """
    quiet_libraries()  # here and, through the environment, in every step
    begin = time.monotonic()
    print("== fetch the parts, build the base model, make the data", flush=True)
    if code := subprocess.run([sys.executable, "-m", "playground.prepare"]).returncode:
        raise SystemExit(code)
    runner = StepRunner(stamps, source_digest(Path(llava_mocle.__file__).parent) + data_digest())
    for step in steps:
        runner.run(step)
    return (time.monotonic() - begin) / 60


def main() -> int:
    """Run everything that is not done yet."""
    argparse.ArgumentParser(prog="make demo", description=__doc__).parse_args()
    minutes = run_all(steps(), OUT / "steps")
    print(f"\ndone in {minutes:.1f} min: open {OUT.relative_to(ROOT) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
