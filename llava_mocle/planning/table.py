"""A plan, printed."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from llava_mocle.io.console import print_table, say
from llava_mocle.planning.hardware import GB, GIB
from llava_mocle.planning.memory import CONTEXT, FRAGMENTATION, STRATEGIES
from llava_mocle.planning.plan import Plan
from llava_mocle.planning.recommend import Candidate

_WITH = {True: "with", False: "without"}


def print_plan(plan: Plan, console: Console) -> None:
    """Everything but the JSON, in the order of the questions: what, how much, does it fit, how long, what to do."""
    _print_model(plan, console)
    _print_work(plan, console)
    _print_memory(plan, console)
    _print_time(plan, console)
    _print_assumptions(plan, console)
    console.print("\n[bold]recommended[/]")
    if plan.chosen is None:
        say(console, _too_large(plan))
    else:
        _print_choice(plan, plan.chosen, console)


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
    print_table(console, table)


def _print_work(plan: Plan, console: Console) -> None:
    problem, own = plan.problem, plan.own
    work, flops = problem.workload, own.flops
    own_batch = own.micro_batch * own.accumulation * problem.cluster.size
    # A step of the recipe's own batch, scaled to the samples of an epoch.
    per_sample = flops.total / own_batch
    parts = {
        "frozen linears": flops.layers,
        "attention": flops.attention,
        "experts": flops.experts,
        "output layer": flops.head,
        "projector": flops.projector,
        "vision tower": flops.vision,
        "recomputed": flops.recomputed,
    }
    console.print("\n[bold]work[/]")
    say(
        console,
        f"an epoch       {work.samples:,} samples, {work.samples * work.tokens:,.0f} tokens: {work.tokens:,.0f} a "
        f"sample ({work.supervised:,.0f} supervised), {work.images:.2f} images ({work.origin})",
        f"global batch   {plan.global_batch:,} on {_count(problem.cluster.size, 'GPU')}; the recipe's own "
        f"{own.micro_batch} x {own.accumulation} makes {own_batch:,} (--global-batch keeps another)",
        f"steps          {plan.steps_per_epoch:,} an epoch, {plan.steps:,} in all",
        f"operations     {per_sample * work.samples:.3g} an epoch, {per_sample:.3g} a sample "
        f"({_WITH[own.checkpointing]} gradient checkpointing, as the recipe says), of which",
        "               " + ", ".join(f"{name} {part / flops.total:.1%}" for name, part in parts.items() if part),
    )


def _print_memory(plan: Plan, console: Console) -> None:
    own, gpu = plan.own, plan.problem.cluster.gpu
    title = (
        f"\nGiB a GPU ({gpu.name}: {gpu.memory / GIB:g}), {own.micro_batch} samples of {plan.problem.longest:,} tokens"
    )
    strategies = plan.problem.strategies
    table = _table(title, [strategy.title for strategy in strategies])

    def row(name: str, value: Callable[[Candidate], float], checkpointing: bool = False, style: str = "") -> None:
        found = plan.own_under_each(checkpointing)
        table.add_row(name, *(f"{value(item) / GIB:,.2f}" for item in found), style=style)

    row("frozen language model", lambda item: item.state.language_model)
    row("frozen vision tower", lambda item: item.state.vision_tower)
    row("projector's original", lambda item: item.state.projector)
    row("trained weights", lambda item: item.state.trainable)
    row("gradients", lambda item: item.state.gradients)
    row("optimizer state", lambda item: item.state.optimizer)
    row("buffers, gathered", lambda item: item.state.buckets)
    row("optimizer's step", lambda item: item.state.step)
    row("head and loss", lambda item: item.activations.loss)
    row("reserve", lambda _: CONTEXT + FRAGMENTATION * gpu.memory)
    for on in (False, True):
        table.add_section()
        table.add_row("checkpointing" if on else "no checkpointing", style="italic")
        row("activations", lambda item: item.activations.kept, on)
        row("backward of a layer", lambda item: item.activations.layer, on)
        row("at the peak", lambda item: item.total, on, "bold")
        fits = ("[green]fits[/]" if item.fits else "[red]too much[/]" for item in plan.own_under_each(on))
        table.add_row("this GPU", *fits)
        sizes: dict[str, int] = {}
        for item in plan.found:
            if item.fits and item.checkpointing == on:
                sizes[item.strategy.key] = max(item.micro_batch, sizes.get(item.strategy.key, 0))
        table.add_row("largest micro-batch", *(str(sizes.get(item.key, "none")) for item in strategies))
    table.add_section()
    row("host memory, a node", lambda item: item.state.host)
    print_table(console, table)
    say(
        console,
        "Head and loss, backward of a layer, optimizer's step: never there together, so the peak has the largest. "
        f"The recipe as it is ({own.strategy.title}, {_WITH[own.checkpointing]} checkpointing) "
        f"{'fits' if own.fits else 'does not fit'}.",
    )


def _print_time(plan: Plan, console: Console) -> None:
    on = plan.own.checkpointing
    title = (
        f"\na step of the recipe's batch, a GPU, {_WITH[on]} checkpointing (nothing overlapped), and hours of the run"
    )
    table = _table(title, [strategy.title for strategy in plan.problem.strategies])
    for name, value in (
        ("GB gathered a step", lambda item: item.traffic.gathered / GB),
        ("GB reduced a step", lambda item: item.traffic.reduced / GB),
        ("GB to or from host", lambda item: item.traffic.host / GB),
        ("computing, s", lambda item: item.compute_seconds),
        ("communication, s", lambda item: item.communication_seconds),
        ("hours", plan.hours),
    ):
        table.add_row(name, *(f"{value(item):,.2f}" for item in plan.own_under_each(on)))
    print_table(console, table)


def _print_assumptions(plan: Plan, console: Console) -> None:
    cluster, gpu, mfu = plan.problem.cluster, plan.problem.cluster.gpu, plan.problem.mfu
    network = f", {cluster.node_network / GB:g} GB/s out of a node" if cluster.nodes > 1 else ""
    console.print("\n[bold]assumed[/]")
    say(
        console,
        f"- MFU {mfu:g} of large micro-batches (--mfu): {mfu * gpu.flops / 1e12:,.0f} of {gpu.flops / 1e12:,.0f} dense "
        "BF16 TFLOP/s a GPU, over all operations, recomputed ones included",
        f"- of N tokens, N / (N + {gpu.balance:.0f}) of that, as every micro-batch reads all weights (an estimate from "
        f"the memory's {gpu.bandwidth / GB:,.0f} GB/s): {_mfu_of(plan)}",
        f"- links: {gpu.link / GB:g} GB/s a GPU and direction inside a node{network}, of which "
        f"{cluster.link_efficiency:.0%} are reached",
        f"- reserve: {CONTEXT / GIB:g} GiB for CUDA and NCCL, and {FRAGMENTATION:.0%} of the memory for fragmentation",
        _head_of(plan),
        "- memory: a whole micro-batch of the longest samples; numbers from data sheets and formulas (docs/plan.md), "
        "not checked on a GPU",
    )
    if plan.problem.settings.bits < 16:
        say(
            console,
            f"- {plan.problem.settings.bits} bit: the time to dequantize weights is left out; ZeRO-3 cannot divide "
            "quantized weights, so it is not considered",
        )


def _head_of(plan: Plan) -> str:
    problem = plan.problem
    if problem.supervised_head:
        return (
            "- head and loss of supervised tokens alone, some at a time; for the operations as many as above, for the "
            "memory all tokens"
        )
    reason = "this model's head cannot do with less" if problem.settings.supervised_head else "supervised_head is false"
    return f"- logits of all tokens, supervised or not: {reason}"


def _mfu_of(plan: Plan) -> str:
    sizes = {item.micro_batch: item.mfu for item in (plan.own, plan.chosen) if item is not None}
    tokens = plan.problem.workload.tokens
    return ", ".join(
        f"{mfu:.3f} for {_count(size, 'sample')} ({size * tokens:,.0f} tokens)" for size, mfu in sorted(sizes.items())
    )


def _too_large(plan: Plan) -> str:
    smallest = min(plan.found, key=lambda item: item.total)
    fewer_bits = "bits 4 (QLoRA), " if plan.problem.settings.bits == 16 else ""
    return (
        f"nothing fits: the smallest, {smallest.strategy.title} at a micro-batch of {smallest.micro_batch}, needs "
        f"{smallest.total / GIB:.1f} GiB of {plan.problem.cluster.gpu.memory / GIB:g}. Use a larger GPU, {fewer_bits}a "
        "smaller model_max_length or lora_r, or more GPUs."
    )


def _print_choice(plan: Plan, chosen: Candidate, console: Console) -> None:
    cluster = plan.problem.cluster
    say(
        console,
        f"{chosen.strategy.title}, {_count(chosen.micro_batch, 'sample')} a GPU x {chosen.accumulation} accumulated x "
        f"{_count(cluster.size, 'GPU')} = {plan.global_batch:,}, {_WITH[chosen.checkpointing]} gradient checkpointing: "
        f"{chosen.total / GIB:.1f} of {cluster.gpu.memory / GIB:g} GiB, about {plan.hours(chosen):.1f} hours",
        f"why: {_reason(plan, chosen)}",
        "start" + (" under SLURM (docs/distributed.md has the other ways)" if cluster.nodes > 1 else "") + ":",
        f"  {plan.command}",
    )


def _reason(plan: Plan, chosen: Candidate) -> str:
    fitting = [item for item in plan.found if item.fits]
    hours = [plan.hours(item) for item in fitting]
    parts = [
        f"{len(fitting)} of {len(plan.found)} configurations fit, from {min(hours):.1f} to {max(hours):.1f} hours; "
        "within 5 % of the fastest, the one with the simplest setup and then the largest micro-batch"
    ]
    for simpler in STRATEGIES[: STRATEGIES.index(chosen.strategy)]:
        taken = [plan.hours(item) for item in fitting if item.strategy == simpler]
        parts.append(f"{simpler.title} " + (f"takes {min(taken):.1f} hours" if taken else "does not fit"))
    plain = any(item.strategy == chosen.strategy and not item.checkpointing for item in fitting)
    if chosen.checkpointing and not plain:
        parts.append("without checkpointing not even one sample a GPU fits")
    return "; ".join(parts)
