"""Where a short run of the demo's recipe goes: processor seconds by what they are for, way beside way.

The ways are what a run can choose by keys: logits of all tokens and validation in small batches, the head on supervised
tokens alone with the same validation, and the defaults. The rows of a pass differ, so compare the time of one; the last
columns are for the demo's schedule (all 300 held-out rows, or by default 224, for 140 steps) and a run of 30 steps.
Experts are chosen by dataset, so that no cluster model is needed. It needs the demo's base and data (`python -m
playground.prepare`).

    OMP_NUM_THREADS=1 python -m benchmarks.loop --steps 4 --rounds 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from benchmarks.harness import machine
from llava_mocle.io.libraries import quiet_libraries
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.loop.held_out import rows_of_pass
from llava_mocle.training.loop.trainer import MocleTrainer
from llava_mocle.training.run import train
from playground.demo import STAGE_2, bf16_is_fast
from playground.paths import BASE

SMALL_BATCHES = ["--eval_rows", "32", "--per_device_eval_batch_size", "8"]
WAYS = {
    "logits of all tokens, validation by 8": ["--supervised_head", "false", *SMALL_BATCHES],
    "head on supervised tokens, validation by 8": SMALL_BATCHES,
    "defaults": [],
}
PARTS = ("forward", "backward", "optimizer", "data", "validation", "logging")
# The demo validates after so many steps; a short run at its end.
HELD_OUT = 300
SCHEDULES = {"in the demo": 140, "in 30 steps": 30}


class _StepEnd(TrainerCallback):
    def __init__(self, trainer: TimedTrainer) -> None:
        self.trainer = trainer

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.add("optimizer", time.process_time() - self.trainer.stepped)


class TimedTrainer(MocleTrainer):
    """Adds up processor seconds. A part that runs inside another counts for itself alone."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seconds: dict[str, float] = defaultdict(float)
        self.inside: list[float] = []
        self.stepped = 0.0
        self.validated = 0
        self.add_callback(_StepEnd(self))

    def add(self, part: str, seconds: float) -> None:
        self.seconds[part] += seconds

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        begin = time.process_time()
        self.inside.append(0.0)
        yield
        spent = time.process_time() - begin
        self.add(part, spent - self.inside.pop())
        if self.inside:
            self.inside[-1] += spent

    def take_steps(self) -> None:
        with self.timed("the rest"):
            super().take_steps()
        self.seconds["the rest"] -= self.seconds["optimizer"]

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        with self.timed("data"):
            return super().get_batch_samples(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        with self.timed("backward"):
            loss = super().training_step(*args, **kwargs)
        self.stepped = time.process_time()
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        with self.timed("forward"):
            return super().compute_loss(*args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.validated += sum(index >= 0 for index in self.eval_dataset.indices)
        with self.timed("validation"):
            return super().evaluation_loop(*args, **kwargs)

    def log(self, *args: Any, **kwargs: Any) -> None:
        with self.timed("logging"):
            super().log(*args, **kwargs)


def one_run(args: argparse.Namespace, words: list[str], folder: str) -> TimedTrainer:
    """A run of `args.steps` steps with one validation pass behind them."""
    steps = str(args.steps)
    common = ["--max_steps", steps, "--eval_steps", steps, "--logging_steps", "1", "--save_strategy", "no"]
    common += ["--adapter", "dataset", "--cluster_model", "none", "--model_name_or_path", args.model]
    common += ["--output_dir", folder, "--report_to", "none", "--disable_tqdm", "true", "--resume", "never"]
    common += ["--bf16", str(bf16_is_fast()).lower()]
    trainer = train(load_recipe(STAGE_2, common + words), TimedTrainer)
    assert isinstance(trainer, TimedTrainer)
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loop", description=__doc__)
    parser.add_argument("--model", default=str(BASE), help="the demo's base, or its stage 1")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    quiet_libraries()
    runs: dict[str, list[TimedTrainer]] = {way: [] for way in WAYS}
    for _ in range(args.rounds):
        for way, words in WAYS.items():
            with tempfile.TemporaryDirectory() as folder:
                runs[way].append(one_run(args, words, str(Path(folder, "run"))))
    parts = [*PARTS, "the rest"]
    print(f"\n{machine()}; {args.steps} steps of 8 rows, then a validation pass; processor seconds, median of rounds\n")
    shares = " | ".join(f"validation {when}" for when in SCHEDULES)
    print("| | " + " | ".join(parts) + f" | ms a trained row | ms a validated row | {shares} |")
    print("|---" * (len(parts) + 3 + len(SCHEDULES)) + "|")
    for way, trainers in runs.items():
        middle = {part: statistics.median(t.seconds[part] for t in trainers) for part in parts}
        trained = sum(middle[part] for part in ("forward", "backward", "optimizer", "data")) / (8 * args.steps)
        validated = middle["validation"] / trainers[0].validated
        cells = [way, *(f"{middle[part]:.1f}" for part in parts), f"{1000 * trained:.0f}", f"{1000 * validated:.0f}"]
        for steps in SCHEDULES.values():
            spent = validated * rows_of_pass(None if way == "defaults" else 0, HELD_OUT, 8 * steps)
            cells.append(f"{100 * spent / (spent + 8 * steps * trained):.0f} %")
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
