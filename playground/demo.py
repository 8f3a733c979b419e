"""`make demo`: the whole method on real pretrained parts. `python -m playground.demo`.

Fetches the embedded parts, builds a LLaVA model from them, trains its projector, clusters the instructions of three
domains, trains MoCLE and beside it a single LoRA, scores held-out images before and after, and writes
playground/out/report.html. Every step is an ordinary command, printed as it runs; steps whose inputs did not change are
reused.

The single LoRA has the rank that MoCLE activates for a sample: a chosen and the universal expert, so twice `lora_r`.
All else is MoCLE's: rows, order, steps, seed, learning rates, and what scales the update (`lora_alpha` over `lora_r`).
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import torch

import llava_mocle
from llava_mocle.analysis.benchmark_report import to_markdown
from llava_mocle.analysis.held_out import held_out_section
from llava_mocle.evaluation.scores.results import HELD_OUT_KIND, read_results
from llava_mocle.recipe.recipe import load_recipe
from playground.paths import BASE, DATA, DOMAINS, PLAYGROUND
from playground.prepare import STAMP
from playground.steps import Step, StepRunner, source_digest

ROOT = PLAYGROUND.parent
RUNS = PLAYGROUND / "runs"
OUT = PLAYGROUND / "out"
CLUSTERS = PLAYGROUND / "clusters"
RECIPES = ROOT / "scripts" / "recipes"
STAGE_1, STAGE_2 = RECIPES / "playground_pretrain.yaml", RECIPES / "playground_mocle.yaml"
CLI = ["python", "-m", "llava_mocle.cli.main"]
# What is compared -> the folder of its scores.
SIDES = {"single LoRA": "single_lora", "MoCLE": "after"}
CAUTION = (
    "One run of each, with one seed, and settings that were chosen while looking at MoCLE's scores: this decides "
    "nothing about MoCLE and a single LoRA. The intervals are over questions alone; another seed or machine moves the "
    "scores too."
)


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


def lora_flags() -> list[str]:
    """What turns the recipe of MoCLE into that of the single LoRA."""
    adapter = load_recipe(STAGE_2).adapter
    sizes = ["--lora_r", str(2 * adapter.lora_r), "--lora_alpha", str(2 * adapter.lora_alpha)]
    return ["--adapter", "lora", *sizes, "--output_dir", str((RUNS / "lora").relative_to(ROOT))]


def evaluate(name: str, title: str, model: Path, recipe: Path, output: Path) -> Step:
    """The command that scores a model on a recipe's held-out rows."""
    words = [*CLI, "eval", "--batch-size", "32", "--max-new-tokens", "12"]
    for flag, path in (("--model", model), ("--output", output), ("--recipe", recipe)):
        words += [flag, str(path.relative_to(ROOT))]
    return Step(name, title, words, [], [output])


def steps() -> list[list[Step]]:
    """The commands of the demonstration, in order; those of one list run side by side."""
    stage_1, stage_2 = (str(path.relative_to(ROOT)) for path in (STAGE_1, STAGE_2))
    precision = ["--bf16", "true"] if bf16_is_fast() else []
    sides = {
        "before": ("the untrained model", BASE),
        "single_lora": ("the single LoRA", RUNS / "lora"),
        "after": ("MoCLE", RUNS / "mocle"),
    }
    scored = [
        evaluate(name, f"score {title} on held-out images", model, STAGE_2, OUT / name)
        for name, (title, model) in sides.items()
    ]
    return [
        [Step("check", "check every row and image", [*CLI, "data", "check", stage_2])],
        [
            Step(
                "pretrain",
                "stage 1: the projector learns to name what is in the picture",
                [*CLI, "train", stage_1, *precision],
                [STAGE_1],
                [RUNS / "pretrain"],
            )
        ],
        [
            Step(
                "cluster",
                "cluster the instructions",
                [*CLI, "cluster", "--recipe", stage_2, "--overwrite"],
                [STAGE_2],
                [CLUSTERS],
            )
        ],
        [
            Step("mocle", "stage 2: MoCLE", [*CLI, "train", stage_2, *precision], [STAGE_2], [RUNS / "mocle"]),
            Step(
                "lora",
                "the baseline: a single LoRA of the rank that MoCLE activates",
                [*CLI, "train", stage_2, *lora_flags(), *precision],
                [STAGE_2],
                [RUNS / "lora"],
            ),
        ],
        scored,
        [
            Step(
                "report",
                "write the report",
                ["python", "-m", "playground.report"],
                [PLAYGROUND / "report.py"],
                [OUT / "figures", OUT / "report.html"],
            )
        ],
    ]


def run_all(steps: list[list[Step]], stamps: Path) -> float:
    """Prepare the parts and the data, and run every step that is not done yet.

    Args:
        stamps: the folder that says which are done.

    Returns:
        The minutes that it took.

    Raises:
        SystemExit: a command failed; its exit code becomes ours.
    """
    begin = time.monotonic()
    print("== fetch the parts, build the base model, make the data", flush=True)
    if code := subprocess.run([sys.executable, "-m", "playground.prepare"]).returncode:
        raise SystemExit(code)
    runner = StepRunner(stamps, source_digest(Path(llava_mocle.__file__).parent) + data_digest())
    for together in steps:
        runner.run(*together)
    return (time.monotonic() - begin) / 60


def scores() -> str:
    """The single LoRA and MoCLE side by side, in Markdown."""
    runs = {name: read_results(OUT / folder, HELD_OUT_KIND) for name, folder in SIDES.items()}
    return f"{to_markdown([held_out_section(runs)])}\n{CAUTION}"


def main() -> int:
    """Run everything that is not done yet."""
    argparse.ArgumentParser(prog="make demo", description=__doc__).parse_args()
    minutes = run_all(steps(), OUT / "steps")
    print(f"\n{scores()}")
    print(f"\ndone in {minutes:.1f} min: open {OUT.relative_to(ROOT) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
