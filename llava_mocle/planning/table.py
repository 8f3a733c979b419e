"""A plan, printed."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from llava_mocle.planning.hardware import GB, GIB
from llava_mocle.planning.memory import CONTEXT, FRAGMENTATION, STRATEGIES, Strategy
from llava_mocle.planning.plan import Plan
from llava_mocle.planning.recommend import Candidate, largest_micro_batch


def print_plan(plan: Plan, console: Console) -> None:
    """Everything but the JSON, in the order of the questions: what, how much, does it fit, how long, what to do."""
    _print_model(plan, console)
    _print_work(plan, console)
    _print_memory(plan, console)
    _print_time(plan, console)
    _print_assumptions(plan, console)
    _print_choice(plan, console)


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _print_model(plan: Plan, console: Console) -> None:
    counts = plan.problem.shape.counts
    table = _table("parameters", ["frozen", "trained"])
    for name, frozen, trained in (
        ("language model", counts.language_model, 0),
        ("vision tower", counts.vision_tower, 0),
        ("projector", counts.frozen_projector, counts.projector),
        ("experts", 0, counts.experts),
        ("router", 0, counts.router),
        ("all", counts.frozen, counts.trainable),
    ):
        table.add_row(name, f"{frozen:,}", f"{trained:,}")
    console.print(table)


def _print_work(plan: Plan, console: Console) -> None:
    problem, own = plan.problem, plan.own
    work, settings = problem.workload, problem.settings
    tokens = work.samples * work.tokens
    console.print("\n[bold]work[/]")
    # A step of the recipe's own batch, scaled to the samples of an epoch.
    per_sample = own.flops.total / (own.micro_batch * own.accumulation * problem.cluster.size)
    lines = [
        f"an epoch       {work.samples:,} samples, {tokens:,.0f} tokens: {work.tokens:,.0f} a sample, "
        f"{work.images:.2f} images ({work.origin})",
        f"global batch   {plan.global_batch:,} on {_count(problem.cluster.size, 'GPU')}; the recipe's own "
        f"{settings.micro_batch} x {settings.accumulation} makes "
        f"{settings.micro_batch * settings.accumulation * problem.cluster.size:,} (--global-batch keeps another)",
        f"steps          {plan.steps_per_epoch:,} an epoch, {plan.steps:,} in all",
        f"operations     {per_sample * work.samples:.3g} an epoch, {per_sample:.3g} a sample "
        f"({'with' if own.checkpointing else 'without'} gradient checkpointing, as the recipe says), of which",
    ]
    flops = own.flops
    parts = (
        ("frozen linears", flops.layers),
        ("attention", flops.attention),
        ("experts", flops.experts),
        ("output layer", flops.head),
        ("projector", flops.projector),
        ("vision tower", flops.vision),
        ("recomputed", flops.recomputed),
    )
    lines.append("               " + ", ".join(f"{name} {part / flops.total:.1%}" for name, part in parts if part))
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _pair(plan: Plan, strategy: Strategy) -> tuple[Candidate, Candidate]:
    """The recipe's batch under a strategy, without and with checkpointing."""
    off, on = (item for item in plan.as_written if item.strategy == strategy)
    return off, on


def _print_memory(plan: Plan, console: Console) -> None:
    problem = plan.problem
    own = plan.own
    gpu = problem.cluster.gpu
    title = f"\nGiB a GPU ({gpu.name}: {gpu.memory / GIB:g}), {own.micro_batch} samples of {problem.longest:,} tokens"
    table = _table(title, [item.title for item in STRATEGIES])
    pairs = [_pair(plan, strategy) for strategy in STRATEGIES]

    def row(name: str, value: Callable[[Candidate], float], which: int = 0, bold: bool = False) -> None:
        cells = [f"{value(pair[which]) / GIB:,.2f}" for pair in pairs]
        table.add_row(name, *cells, style="bold" if bold else None)

    row("frozen language model", lambda item: item.state.language_model)
    row("frozen vision tower", lambda item: item.state.vision_tower)
    row("projector's original", lambda item: item.state.projector)
    row("trained weights", lambda item: item.state.trainable)
    row("gradients", lambda item: item.state.gradients)
    row("optimizer state", lambda item: item.state.optimizer)
    row("buffers, gathered", lambda item: item.state.buckets)
    row("optimizer's step", lambda item: item.state.step)
    row("logits, gradients", lambda item: item.activations.loss)
    row("reserve", lambda _: CONTEXT + FRAGMENTATION * gpu.memory)
    for which, name in ((0, "no checkpointing"), (1, "checkpointing")):
        table.add_section()
        table.add_row(name, style="italic")
        row("activations", lambda item: item.activations.kept, which)
        row("backward of a layer", lambda item: item.activations.layer, which)
        row("at the peak", lambda item: item.total, which, bold=True)
        fits = ["[green]fits[/]" if pair[which].fits else "[red]too much[/]" for pair in pairs]
        table.add_row("this GPU", *fits)
        sizes = [largest_micro_batch(plan.found, strategy, bool(which)) for strategy in STRATEGIES]
        table.add_row("largest micro-batch", *(str(size or "none") for size in sizes))
    table.add_section()
    row("host memory, a node", lambda item: item.state.host)
    console.print(table)
    console.print(
        "Logits, backward of a layer and the optimizer's step are never there together: the peak has the largest. "
        f"{_marked(plan)}",
        highlight=False,
        soft_wrap=True,
    )


def _marked(plan: Plan) -> str:
    own = plan.own
    checkpointing = "with" if own.checkpointing else "without"
    verdict = "fits" if own.fits else "does not fit"
    return f"The recipe as it is ({own.strategy.title}, {checkpointing} checkpointing) {verdict}."


def _print_time(plan: Plan, console: Console) -> None:
    own = plan.own
    settings = "with" if own.checkpointing else "without"
    title = (
        f"\na step of the recipe's batch, a GPU, {settings} checkpointing (nothing overlapped), and hours of the run"
    )
    table = _table(title, [item.title for item in STRATEGIES])
    items = [_pair(plan, strategy)[own.checkpointing] for strategy in STRATEGIES]
    for name, value in (
        ("GB gathered a step", lambda item: item.traffic.gathered / GB),
        ("GB reduced a step", lambda item: item.traffic.reduced / GB),
        ("GB to or from host", lambda item: item.traffic.host / GB),
        ("computing, s", lambda item: item.compute_seconds),
        ("communication, s", lambda item: item.communication_seconds),
        ("hours", plan.hours),
    ):
        table.add_row(name, *(f"{value(item):,.2f}" for item in items))
    console.print(table)


def _print_assumptions(plan: Plan, console: Console) -> None:
    cluster, gpu = plan.problem.cluster, plan.problem.cluster.gpu
    network = f", {cluster.node_network / GB:g} GB/s out of a node" if cluster.nodes > 1 else ""
    reached = plan.problem.mfu * gpu.flops / 1e12
    lines = [
        f"MFU {plan.problem.mfu:g} (--mfu): {reached:,.0f} of {gpu.flops / 1e12:,.0f} dense BF16 TFLOP/s a GPU, over "
        "all operations, recomputed ones included",
        f"links: {gpu.link / GB:g} GB/s a GPU and direction inside a node{network}, of which "
        f"{cluster.link_efficiency:.0%} are reached",
        "every micro-batch is assumed to reach that MFU; small ones (one or two samples a GPU) reach less",
        f"reserve: {CONTEXT / GIB:g} GiB for CUDA and NCCL, and {FRAGMENTATION:.0%} of the memory for fragmentation",
        "memory: a whole micro-batch of the longest samples; numbers from data sheets and formulas (docs/plan.md), not "
        "checked on a GPU",
    ]
    console.print("\n[bold]assumed[/]")
    console.print("\n".join(f"- {line}" for line in lines), markup=False, highlight=False, soft_wrap=True)


def _print_choice(plan: Plan, console: Console) -> None:
    console.print("\n[bold]recommended[/]")
    chosen, cluster = plan.chosen, plan.problem.cluster
    if chosen is None:
        smallest = min(plan.found, key=lambda item: item.total)
        console.print(
            f"nothing fits: the smallest, {smallest.strategy.title} at a micro-batch of {smallest.micro_batch}, needs "
            f"{smallest.total / GIB:.1f} GiB of {cluster.gpu.memory / GIB:g}. Use a larger GPU, a smaller "
            "model_max_length or lora_r, or more GPUs.",
            highlight=False,
            soft_wrap=True,
        )
        return
    checkpointing = "with" if chosen.checkpointing else "without"
    lines = [
        f"{chosen.strategy.title}, {_count(chosen.micro_batch, 'sample')} a GPU x {chosen.accumulation} accumulated x "
        f"{_count(cluster.size, 'GPU')} = {plan.global_batch:,}, {checkpointing} gradient checkpointing: "
        f"{chosen.total / GIB:.1f} of {cluster.gpu.memory / GIB:g} GiB, about {plan.hours(chosen):.1f} hours",
        f"why: {_reason(plan, chosen)}",
        "start" + (" under SLURM (docs/distributed.md has the other ways)" if cluster.nodes > 1 else "") + ":",
    ]
    console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    console.print(f"  {plan.command}", markup=False, highlight=False, soft_wrap=True)


def _reason(plan: Plan, chosen: Candidate) -> str:
    fitting = [item for item in plan.found if item.fits]
    slowest = max(plan.hours(item) for item in fitting)
    parts = [
        f"{len(fitting)} of {len(plan.found)} configurations fit, from {min(map(plan.hours, fitting)):.1f} to "
        f"{slowest:.1f} hours; within 5 % of the fastest, the one with the simplest setup and then the largest "
        "micro-batch"
    ]
    simpler = STRATEGIES[: STRATEGIES.index(chosen.strategy)]
    for strategy in simpler:
        hours = [plan.hours(item) for item in fitting if item.strategy == strategy]
        parts.append(f"{strategy.title} {'does not fit' if not hours else f'takes {min(hours):.1f} hours'}")
    without = [item for item in fitting if item.strategy == chosen.strategy and not item.checkpointing]
    if chosen.checkpointing and not without:
        parts.append("without checkpointing not even one sample a GPU fits")
    return "; ".join(parts)
