"""A recipe and a machine -> a `Plan`: everything the command prints, as numbers."""

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llava_mocle.errors import ConfigError
from llava_mocle.io.secrets import mask_command
from llava_mocle.planning.hardware import Cluster
from llava_mocle.planning.measure import measure_shape
from llava_mocle.planning.recommend import Candidate, Problem, candidates, evaluate, recommend
from llava_mocle.planning.settings import checkpointing_key, read_settings
from llava_mocle.planning.workload import find_workload
from llava_mocle.recipe.checks import check_quantization, check_weighted
from llava_mocle.recipe.recipe import Recipe
from llava_mocle.recipe.start_script import start_script
from llava_mocle.training.setup.meta_model import meta_model

DEFAULT_MFU = 0.4


@dataclass(frozen=True)
class Plan:
    """What is known about a run before it starts.

    Attributes:
        problem: model, workload, machines and assumptions.
        global_batch: samples of an optimizer step.
        steps_per_epoch, steps: optimizer steps.
        as_written: the recipe's own micro-batch and accumulation under every strategy, with and without
            checkpointing; `own` is the one that the recipe asks for.
        found: every candidate with this global batch.
        chosen: the recommended one; None: nothing fits.
        command: how to start it.
    """

    problem: Problem
    global_batch: int
    steps_per_epoch: int
    steps: int
    as_written: tuple[Candidate, ...]
    own: Candidate
    found: tuple[Candidate, ...]
    chosen: Candidate | None
    command: str | None

    def hours(self, candidate: Candidate) -> float:
        """Of the whole run."""
        batch = candidate.micro_batch * candidate.accumulation * self.problem.cluster.size
        return self.steps * (self.global_batch / batch) * candidate.step_seconds / 3600

    def own_under_each(self, checkpointing: bool) -> list[Candidate]:
        """The recipe's own batch under every strategy, in the order of `Problem.strategies`."""
        return [item for item in self.as_written if item.checkpointing == checkpointing]


def make_plan(
    recipe: Recipe,
    cluster: Cluster,
    *,
    mfu: float = DEFAULT_MFU,
    samples: int | None = None,
    tokens: float | None = None,
    longest: int | None = None,
    global_batch: int | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Plan a recipe.

    Args:
        mfu: assumed share of the GPUs' dense peak that large micro-batches reach.
        samples, tokens: samples of an epoch and tokens of a sample; None: from the rows.
        longest: tokens of the longest sample; None: the recipe's `model_max_length`.
        global_batch: samples of an optimizer step; None: the recipe's batch a GPU times its accumulation times GPUs.
        overrides: the words that changed the recipe, for the command line.

    Raises:
        ConfigError: a number out of range, a global batch that the GPUs do not divide, or as `check_quantization` and
            `meta_model`.
    """
    if not 0 < mfu <= 1:
        raise ConfigError(f"--mfu is {mfu:g}, expected a share above 0 and at most 1")
    if longest is not None and longest < 1:
        raise ConfigError(f"--longest is {longest}, expected a whole number from 1")
    check_weighted(recipe)
    check_quantization(recipe)
    shape = measure_shape(meta_model(recipe))
    settings = read_settings(recipe, shape.usual_length)
    workload = find_workload(
        recipe, shape.tower.image_tokens, samples=samples, tokens=tokens, usual_length=shape.usual_length
    )
    problem = Problem(shape, settings, workload, cluster, longest or settings.max_length, mfu)
    wanted = global_batch or settings.micro_batch * settings.accumulation * cluster.size
    if wanted < 1 or wanted % cluster.size:
        raise ConfigError(
            f"--global-batch is {wanted}, which {cluster.size} GPUs do not share evenly; use a multiple of them"
        )
    steps_per_epoch = math.ceil(workload.samples / wanted)
    as_written = tuple(
        evaluate(problem, strategy, settings.micro_batch, settings.accumulation, checkpointing)
        for strategy in problem.strategies
        for checkpointing in (False, True)
    )
    own = next(
        item
        for item in as_written
        if item.strategy == settings.strategy and item.checkpointing == settings.checkpointing
    )
    found = tuple(candidates(problem, wanted))
    chosen = recommend(found)
    return Plan(
        problem=problem,
        global_batch=wanted,
        steps_per_epoch=steps_per_epoch,
        steps=settings.max_steps or math.ceil(steps_per_epoch * settings.epochs),
        as_written=as_written,
        own=own,
        found=found,
        chosen=chosen,
        command=command_line(recipe, cluster, chosen, overrides) if chosen else None,
    )


def command_line(recipe: Recipe, cluster: Cluster, chosen: Candidate, overrides: Sequence[str] = ()) -> str:
    """The command that starts a candidate: once, also on several nodes, which are taken to be SLURM's."""
    gpus, slurm = cluster.gpus_per_node, cluster.nodes > 1
    size = [f"NODES={cluster.nodes}", f"GPUS_PER_NODE={gpus}"] if slurm else [f"NPROC={gpus}"]
    words = [*size, "bash", start_script(recipe, slurm), *([recipe.source] if recipe.source else []), *overrides]
    words += ["--per_device_train_batch_size", str(chosen.micro_batch)]
    words += ["--gradient_accumulation_steps", str(chosen.accumulation)]
    words += [f"--{checkpointing_key(recipe.trainer)}", str(chosen.checkpointing).lower()]
    if chosen.strategy.config or recipe.trainer.get("deepspeed"):
        words += ["--deepspeed", chosen.strategy.config or ""]
    return shlex.join(mask_command(words))


def as_dict(plan: Plan) -> dict[str, Any]:
    """The plan as JSON takes it: bytes, operations and seconds, unrounded."""
    problem = plan.problem

    def candidate(item: Candidate) -> dict[str, Any]:
        values = dataclasses.asdict(item)
        values["strategy"] = item.strategy.key
        return values | {"step_seconds": item.step_seconds, "hours": plan.hours(item)}

    shape = dataclasses.asdict(problem.shape)
    shape["layers"] = problem.shape.layers
    shape["layer_sites"] = [[site.name for site in sites] for sites in problem.shape.layer_sites]
    return {
        "shape": shape,
        "workload": dataclasses.asdict(problem.workload),
        "cluster": dataclasses.asdict(problem.cluster),
        "assumed_mfu": problem.mfu,
        "longest": problem.longest,
        "global_batch": plan.global_batch,
        "steps_per_epoch": plan.steps_per_epoch,
        "steps": plan.steps,
        "recipe": candidate(plan.own),
        "as_written": [candidate(item) for item in plan.as_written],
        "recommended": candidate(plan.chosen) if plan.chosen else None,
        "command": plan.command,
    }
