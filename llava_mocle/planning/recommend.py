"""Which configuration fits and is fastest."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llava_mocle.planning.activations import Activations, Batch, activations
from llava_mocle.planning.communication import Traffic, traffic
from llava_mocle.planning.compute import Flops, reached_mfu, training_flops
from llava_mocle.planning.hardware import Cluster
from llava_mocle.planning.memory import STRATEGIES, State, Strategy, model_state, strategies_for
from llava_mocle.planning.precision import Precision
from llava_mocle.planning.settings import Settings
from llava_mocle.planning.shapes import ModelShape
from llava_mocle.planning.workload import Workload

# Differences in time below this are noise next to the assumptions; then the simpler configuration is taken.
_NOISE = 0.05


@dataclass(frozen=True)
class Candidate:
    """One way to run the recipe, and what it costs.

    Attributes:
        strategy, micro_batch, accumulation, checkpointing: the choices.
        state, activations: memory of one GPU, for a micro-batch of the longest samples.
        total: bytes of a GPU with the reserve; `fits`: whether it has them.
        flops: of one optimizer step on all GPUs.
        traffic: of one GPU in one step.
        mfu: the share of a GPU's dense peak that micro-batches of this size are assumed to reach.
        compute_seconds, communication_seconds: of one step; nothing overlapped.
    """

    strategy: Strategy
    micro_batch: int
    accumulation: int
    checkpointing: bool
    state: State
    activations: Activations
    total: int
    fits: bool
    flops: Flops
    traffic: Traffic
    mfu: float
    compute_seconds: float
    communication_seconds: float

    @property
    def step_seconds(self) -> float:
        return self.compute_seconds + self.communication_seconds


@dataclass(frozen=True)
class Problem:
    """Everything that a candidate is judged by.

    Attributes:
        longest: tokens of the longest sample, which memory has to hold a micro-batch of.
        mfu: the share of a GPU's dense peak that large micro-batches are assumed to reach, over all operations,
            recomputed ones included.
    """

    shape: ModelShape
    settings: Settings
    workload: Workload
    cluster: Cluster
    longest: int
    mfu: float

    @property
    def strategies(self) -> tuple[Strategy, ...]:
        """Those that can run the recipe, from the simplest to the most involved."""
        return strategies_for(self.settings.bits)

    @property
    def supervised_head(self) -> bool:
        """Whether head and loss are computed of supervised tokens alone."""
        return self.settings.supervised_head and self.shape.supervised_head


def evaluate(
    problem: Problem, strategy: Strategy, micro_batch: int, accumulation: int, checkpointing: bool
) -> Candidate:
    """Cost of one configuration."""
    shape, cluster, settings = problem.shape, problem.cluster, problem.settings
    precision = Precision.of(
        deepspeed=strategy.stage > 0,
        half=settings.half,
        weights=settings.weights,
        moments=settings.moments,
        bits=settings.bits,
        double_quant=settings.double_quant,
    )
    samples = micro_batch * accumulation * cluster.size
    # Of the longest samples, every one has at least the average number of images.
    images = max(1, round(problem.workload.images)) if problem.workload.images else 0
    batch = Batch(micro_batch, problem.longest, micro_batch * images, padded=micro_batch > 1)
    if problem.supervised_head:
        batch = replace(batch, supervised=batch.tokens)  # the most that there can be
    held = activations(shape, batch, precision, checkpointing=checkpointing, attention=settings.attention)
    state = model_state(shape, strategy, precision, gpus=cluster.size, gpus_per_node=cluster.gpus_per_node)
    flops = training_flops(
        shape,
        samples=samples,
        length=problem.workload.tokens,
        images=samples * problem.workload.images,
        checkpointing=checkpointing,
        supervised=samples * problem.workload.supervised if problem.supervised_head else None,
    )
    moved = traffic(
        shape, strategy, precision, gpus=cluster.size, accumulation=accumulation, checkpointing=checkpointing
    )
    total = state.total(held, cluster.gpu.memory)
    mfu = reached_mfu(problem.mfu, micro_batch * problem.workload.tokens, cluster.gpu)
    return Candidate(
        strategy=strategy,
        micro_batch=micro_batch,
        accumulation=accumulation,
        checkpointing=checkpointing,
        state=state,
        activations=held,
        total=total,
        fits=total <= cluster.gpu.memory,
        flops=flops,
        traffic=moved,
        mfu=mfu,
        compute_seconds=flops.total / (cluster.size * cluster.gpu.flops * mfu),
        communication_seconds=moved.seconds(cluster),
    )


def candidates(problem: Problem, global_batch: int) -> list[Candidate]:
    """Every strategy, with and without checkpointing, at every micro-batch that divides a GPU's share of the batch."""
    per_gpu = global_batch // problem.cluster.size
    sizes = [size for size in range(1, per_gpu + 1) if per_gpu % size == 0]
    return [
        evaluate(problem, strategy, size, per_gpu // size, checkpointing)
        for strategy in problem.strategies
        for checkpointing in (False, True)
        for size in sizes
    ]


def recommend(found: Sequence[Candidate]) -> Candidate | None:
    """The fastest that fits; of those about as fast, the simplest strategy, then the largest micro-batch.

    None: nothing fits.
    """
    fitting = [item for item in found if item.fits]
    if not fitting:
        return None
    limit = min(item.step_seconds for item in fitting) * (1 + _NOISE)
    near = [item for item in fitting if item.step_seconds <= limit]
    return min(near, key=lambda item: (STRATEGIES.index(item.strategy), -item.micro_batch, item.checkpointing))
