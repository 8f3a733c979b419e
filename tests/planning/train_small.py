"""Train a small model for three steps and print, as JSON, the memory it took and what was predicted.

    python -m tests.planning.train_small '{"samples": 4, "length": 256, "model": {...}}'

A process of its own: its peak belongs to this training alone.
"""

import gc
import json
import resource
import sys
from pathlib import Path

import torch

from llava_mocle.planning.activations import activations
from llava_mocle.planning.measure import measure_shape
from llava_mocle.planning.memory import DDP, model_state
from llava_mocle.planning.precision import Precision
from tests.planning.small import batch_shape, loss_of, make_batch, make_model


def resident():
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def train(model, samples, length, steps):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    for _ in range(steps):
        loss = loss_of(model, make_batch(model, samples, length))
        loss.backward()
        del loss
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


def main():
    request = json.loads(sys.argv[1])
    samples, length = request["samples"], request["length"]
    checkpointing = request["model"].get("checkpointing", False)
    torch.set_num_threads(1)
    # Everything that is loaded on first use, before the baseline is taken.
    train(make_model(checkpointing=checkpointing), 2, 32, 2)
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
    baseline = resident()
    model = make_model(**request["model"])
    train(model, samples, length, 3)
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    shape = measure_shape(model)
    precision = Precision.of(deepspeed=False, half=False, weights=4)
    batch = batch_shape(model, samples, length)
    held = activations(shape, batch, precision, checkpointing=checkpointing, device="cpu")
    state = model_state(shape, DDP, precision, gpus=1)
    result = {
        "parameters": shape.counts.all,
        "trainable": shape.counts.trainable,
        "baseline": baseline,
        "measured": peak - baseline,
        "predicted": state.peak(held),
        "resident": state.resident,
        "kept": held.kept,
        "loss": held.loss,
        "layer": held.layer,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
