"""MoCLE on one GPU at the shapes of a 7B model, in bfloat16: products, layer, and the step of a whole decoder.

    python -m benchmarks.gpu                              # a GPU of 80 GB; a few minutes
    python -m benchmarks.gpu --layers 8 --batch 8         # less memory
    python -m benchmarks.gpu --device cpu --toy           # tries this program out, and measures nothing

The decoder has LLaMA-7B's shape and random weights, frozen in bfloat16. What is trained is float32 under autocast, as
in `llava-mocle train` without DeepSpeed. PEFT's LoRA of rank r and 2 r wraps the same frozen weights. A step is
forward, backward, clipping and AdamW. MoCLE runs as the trainer runs it: gated MLPs as one function, head and loss on
supervised tokens alone. Operations and memory are held against `llava-mocle plan`'s own formulas.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from benchmarks.harness import Timing, in_turn, machine, peak_mib, ratios, table
from llava_mocle.adapter import MocleConfig
from llava_mocle.adapter.gated_mlp import MlpNames
from llava_mocle.adapter.kernels import batched, choice
from llava_mocle.model.supervised_head import SupervisedHead, put_supervised_head, supervised_positions
from llava_mocle.planning.activations import Batch, activations
from llava_mocle.planning.compute import training_flops
from llava_mocle.planning.hardware import GPUS, Gpu
from llava_mocle.planning.measure import measure_shape
from llava_mocle.planning.memory import DDP, model_state
from llava_mocle.planning.precision import Precision

NO_MEASUREMENT = "This is no measurement: the program was only tried out on a CPU."
CLUSTERS, EXPERTS = 4, 4
TARGETS = ("up_proj", "down_proj")
# The CPU's calls that start a kernel, as the profiler names them.
_LAUNCHES = {"cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx"}


@dataclass(frozen=True)
class Shapes:
    """Sizes of the decoder, the adapter and a micro-batch."""

    hidden: int
    intermediate: int
    heads: int
    vocab: int
    layers: int
    rank: int
    batch: int
    tokens: int

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The adapted linears: in, out."""
        return {"up_proj": (self.hidden, self.intermediate), "down_proj": (self.intermediate, self.hidden)}


def main() -> None:
    args = _arguments()
    torch.manual_seed(0)
    device = torch.device(args.device)
    shapes = Shapes(4096, 11008, 32, 32000, args.layers, args.rank, args.batch, args.tokens)
    if args.toy:
        shapes = Shapes(64, 176, 4, 128, 2, 8, 4, 16)
    measured = device.type == "cuda" and not args.toy
    if not measured:
        print(f"{NO_MEASUREMENT}\n")
    gpu = _gpu(args.gpu, device)
    print(f"{machine()}; {shapes}; data sheet: {gpu.name if gpu else 'none'}\n")
    rounds = args.rounds if measured else 1
    print("## Products of a site, forward and backward\n")
    products(shapes, device, rounds)
    print("## One adapted linear, forward and backward\n")
    for name, (in_features, out_features) in shapes.linears.items():
        layer(name, in_features, out_features, shapes, device, rounds)
    print("## A step of the whole decoder\n")
    step(shapes, device, rounds, args, gpu)
    if not measured:
        print(NO_MEASUREMENT)


# ------ products


def products(shapes: Shapes, device: torch.device, rounds: int) -> None:
    """Every way that can run here, for both linears, and which one is chosen."""
    clusters = torch.arange(shapes.batch, device=device) % CLUSTERS
    slots = torch.stack((clusters % EXPERTS, torch.full_like(clusters, EXPERTS)), dim=1)
    for name, (in_features, out_features) in shapes.linears.items():
        x = torch.empty(shapes.batch, shapes.tokens, in_features, device=device, dtype=torch.bfloat16)
        site = choice.Site(x, (in_features, out_features, shapes.rank, EXPERTS + 1, 2), slots)
        ways = [batched.SEGMENTS, *choice.available(device, x.dtype, (shapes.rank, in_features, out_features))]
        ways = [way for way in ways if way is ways[0] or choice.agrees(way, site, site.run(ways[0]))]
        runs = {way.name: partial(site.run, way) for way in ways}
        timings = in_turn(runs, rounds)
        print(f"{name}, {in_features} -> {out_features}\n")
        _print(timings, ways[0].name, {"peak MiB": {key: f"{peak_mib(run):.0f}" for key, run in runs.items()}})


# ------ one linear


def layer(name: str, in_features: int, out_features: int, shapes: Shapes, device: torch.device, rounds: int) -> None:
    """MoCLE against PEFT's LoRA, around the same frozen linear."""
    holder = nn.ModuleDict({name: nn.Linear(in_features, out_features, bias=False)}).to(device, torch.bfloat16)
    wrapped = _wrapped(_Called(holder, name), shapes.rank, [name])
    x = torch.randn(shapes.batch, shapes.tokens, in_features, device=device, dtype=torch.bfloat16, requires_grad=True)

    def run(model: nn.Module, inputs: Mapping[str, Any]) -> None:
        with torch.autocast(device.type, dtype=torch.bfloat16):
            output = model(x=x, **inputs)
        output.backward(torch.ones_like(output))
        x.grad = None
        model.zero_grad()

    runs = {key: partial(run, model, _routing(key, shapes, device)) for key, model in wrapped.items()}
    print(f"{name}, {in_features} -> {out_features}\n")
    _print(in_turn(runs, rounds), "PEFT 2r", _columns(runs, device))


class _Called(nn.Module):
    """One linear as a model that PEFT wraps."""

    def __init__(self, linears: nn.ModuleDict, name: str) -> None:
        super().__init__()
        self.linears, self.name = linears, name
        self.config = LlamaConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8)

    def forward(self, x: Tensor) -> Tensor:
        return self.linears[self.name](x)


def _wrapped(base: nn.Module, rank: int, targets: list[str]) -> dict[str, nn.Module]:
    """The ways to adapt a model. All of them hold the same frozen weights."""
    base.requires_grad_(False)

    def shared() -> Any:
        # To `deepcopy`, what is in its memo is copied already.
        tensors = [*base.parameters(), *base.buffers()]
        return copy.deepcopy(base, {id(tensor): tensor for tensor in tensors})

    mocle = MocleConfig(
        r=rank,
        target_modules=targets,
        num_experts=EXPERTS,
        num_clusters=CLUSTERS,
        cluster_dim=384 if rank > 8 else 16,
        init_lora_weights=False,
    )
    ways: dict[str, nn.Module] = {}
    for name, r in (("PEFT 2r", 2 * rank), ("PEFT r", rank)):
        lora = LoraConfig(r=r, lora_alpha=2 * r, target_modules=targets, init_lora_weights=False)
        ways[name] = get_peft_model(shared(), lora)
    ways["MoCLE"] = get_peft_model(shared(), mocle)
    plain = get_peft_model(shared(), mocle)
    plain.base_model.fused = False
    ways["MoCLE, plain path"] = plain
    return ways


def _routing(way: str, shapes: Shapes, device: torch.device) -> dict[str, Tensor]:
    return {"cluster_ids": torch.arange(shapes.batch, device=device) % CLUSTERS} if "MoCLE" in way else {}


# ------ the whole step


def step(shapes: Shapes, device: torch.device, rounds: int, args: argparse.Namespace, gpu: Gpu | None) -> None:
    """Ratios, tokens a second, MFU, memory against the plan, launches and synchronizations."""
    wrapped = _wrapped(_decoder(shapes, args.checkpointing, device), shapes.rank, list(TARGETS))
    wrapped["MoCLE"].base_model.fuse_mlps(MlpNames(), within="language_model")
    heads = {"MoCLE": put_supervised_head(wrapped["MoCLE"].get_base_model())}
    batch = _batch(shapes, args.supervised, device)
    positions = supervised_positions(batch["labels"])
    runs: dict[str, Callable[[], None]] = {}
    optimizers: dict[str, torch.optim.Optimizer] = {}
    for name, model in wrapped.items():
        model.train()
        optimizers[name] = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
        runs[name] = partial(
            _train, model, optimizers[name], batch | _routing(name, shapes, device), positions, heads.get(name)
        )
    timings = in_turn(runs, rounds)
    seconds = {name: statistics.median(timing.wall) for name, timing in timings.items()}
    columns = {"tokens/s": {name: f"{shapes.batch * shapes.tokens / value:.0f}" for name, value in seconds.items()}}
    columns |= _columns(runs, device)
    print(f"{100 * args.supervised:.0f} % of the tokens supervised, checkpointing {args.checkpointing}\n")
    _print(timings, "PEFT 2r", columns, also=["PEFT r"])
    chosen = ", ".join(sorted(choice.chosen())) or "none (the loop over runs)"
    print(f"Kernels chosen for the experts' products: {chosen}\n")
    moments = [state for states in optimizers["MoCLE"].state.values() for state in states.values()]
    resident = sum(tensor.numel() * tensor.element_size() for tensor in [*wrapped["MoCLE"].parameters(), *moments])
    print("MoCLE's step against `llava-mocle plan`\n")
    _against_the_plan(wrapped["MoCLE"], shapes, args.checkpointing, resident, peak_mib(runs["MoCLE"]))
    if gpu is not None:
        _utilization(wrapped["MoCLE"], shapes, args.checkpointing, seconds["MoCLE"], gpu)


def _decoder(shapes: Shapes, checkpointing: bool, device: torch.device) -> nn.Module:
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=shapes.hidden,
            intermediate_size=shapes.intermediate,
            num_hidden_layers=shapes.layers,
            num_attention_heads=shapes.heads,
            num_key_value_heads=shapes.heads,
            vocab_size=shapes.vocab,
            max_position_embeddings=max(2048, shapes.tokens),
            use_cache=False,
        ),
        # The planner wants one. The batches have no images.
        vision_config=CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=2,
            num_attention_heads=1,
            image_size=28,
            patch_size=14,
        ),
        image_token_index=shapes.vocab - 1,
        image_seq_length=4,
    )
    with torch.device(device):
        model = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa", dtype=torch.bfloat16)
    model.config.use_cache = model.config.text_config.use_cache = False
    if checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    return model


def _batch(shapes: Shapes, supervised: float, device: torch.device) -> dict[str, Tensor]:
    ids = torch.randint(3, shapes.vocab - 1, (shapes.batch, shapes.tokens), device=device)
    labels = ids.clone()
    labels[:, : shapes.tokens - round(supervised * shapes.tokens)] = -100
    return {"input_ids": ids, "labels": labels}


def _train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, Tensor],
    positions: Tensor,
    head: SupervisedHead | None,
) -> None:
    with torch.autocast(batch["input_ids"].device.type, dtype=torch.bfloat16):
        if head is None:
            loss = model(**batch).loss
        else:
            inputs = {key: value for key, value in batch.items() if key != "labels"}
            with head.supervising(batch["labels"], positions):
                loss = model(**inputs).logits.mean()
    loss.backward()
    del loss
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()


def _against_the_plan(model: nn.Module, shapes: Shapes, checkpointing: bool, resident: int, peak: float) -> None:
    """Memory: `resident` bytes of weights and optimizer, and `peak` MiB that a step takes besides."""
    shape, precision = measure_shape(model), Precision.of(deepspeed=False, half=True, weights=2)
    held = activations(
        shape, Batch(shapes.batch, shapes.tokens, 0, padded=False), precision, checkpointing=checkpointing
    )
    state = model_state(shape, DDP, precision, gpus=1)
    # Gradients are freed after a step, and are no part of what is there before it.
    rows = {
        "weights and optimizer": (resident / 2**20, (state.resident - state.gradients) / 2**20),
        "besides, in a step": (peak, (state.gradients + max(held.peak, state.step)) / 2**20),
    }
    print("| MiB | measured | plan | plan over measured |\n|---|---|---|---|")
    for name, (measured, planned) in rows.items():
        print(f"| {name} | {measured:.1f} | {planned:.1f} | {planned / measured:.2f} |")
    print()


def _utilization(model: nn.Module, shapes: Shapes, checkpointing: bool, seconds: float, gpu: Gpu) -> None:
    """Operations a second over the data sheet's; what checkpointing computes again is no part of MFU."""
    flops = training_flops(
        measure_shape(model), samples=shapes.batch, length=shapes.tokens, images=0, checkpointing=checkpointing
    )
    print(f"Operations of a step: {flops.total / 1e12:.3f} x 1e12, {flops.recomputed / 1e12:.3f} of them recomputed.")
    for name, counted in (("MFU", flops.total - flops.recomputed), ("with what is recomputed", flops.total)):
        print(
            f"{name}: {100 * counted / seconds / gpu.flops:.1f} % of {gpu.flops / 1e12:.0f}e12 a second ({gpu.name})."
        )
    print()


# ------ what is counted


def _columns(runs: Mapping[str, Callable[[], object]], device: torch.device) -> dict[str, dict[str, str]]:
    """Peak, launches and synchronizations of each way, which has run before."""
    launches = "kernel launches" if device.type == "cuda" else "aten operations"
    columns: dict[str, dict[str, str]] = {"peak MiB": {}, launches: {}, "host syncs": {}}
    for name, run in runs.items():
        columns["peak MiB"][name] = f"{peak_mib(run):.0f}"
        columns[launches][name] = str(count_launches(run, device))
        columns["host syncs"][name] = str(count_syncs(run)) if device.type == "cuda" else "-"
    return columns


def count_launches(run: Callable[[], object], device: torch.device) -> int:
    """Kernels that a run starts; on a CPU, its aten operations."""
    kinds = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        kinds.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=kinds) as profiler:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize()
    names = [event.name() for event in profiler.profiler.kineto_results.events()]
    if device.type == "cuda":
        return sum(name in _LAUNCHES for name in names)
    return sum(name.startswith("aten::") for name in names)


def count_syncs(run: Callable[[], object]) -> int:
    """How often a run makes the CPU wait for the GPU."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def _print(timings: dict[str, Timing], over: str, extra: dict[str, dict[str, str]], also: Sequence[str] = ()) -> None:
    wall = {
        f"wall over {name}": {way: str(ratios(timings, way, name, clock="wall")) for way in timings}
        for name in (over, *also)
    }
    print(table(timings, [], wall | extra), end="\n\n")


# ------ settings


def _gpu(name: str | None, device: torch.device) -> Gpu | None:
    """The data sheet of the GPU at hand: the one that is named, or whose name the device has."""
    if name is not None:
        return GPUS[name]
    if device.type != "cuda":
        return None
    words = torch.cuda.get_device_name(device).lower()
    memory = torch.cuda.get_device_properties(device).total_memory
    fitting = [gpu for gpu in GPUS.values() if gpu.name.split("-")[0] in words.replace(" ", "")]
    return min(fitting, key=lambda gpu: abs(gpu.memory - memory), default=None)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--toy", action="store_true", help="tiny sizes, one round: to try the program out")
    for name, default in {"layers": 32, "rank": 128, "batch": 16, "tokens": 2048, "rounds": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--supervised", type=float, default=0.25, help="the share of the tokens that are supervised")
    parser.add_argument("--checkpointing", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--gpu", choices=sorted(GPUS), help="whose data sheet MFU is computed with; default: by its name"
    )
    args = parser.parse_args()
    if args.device == "cpu" and not args.toy:
        parser.error("a 7B shape takes a GPU; --toy tries the program out on a CPU")
    return args


if __name__ == "__main__":
    main()
