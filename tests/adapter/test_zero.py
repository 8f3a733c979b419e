"""Two ranks with unbalanced routing against one process: losses and gradient norms under ZeRO-2 and ZeRO-3.

Rank 0 sees one cluster only, rank 1 four others, so that each rank leaves experts unused that the other trains.
Experts kept in modules of their own fail here: under ZeRO-2 by a wrong norm without an error, under ZeRO-3 by a crash.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from peft import get_peft_model

from tests.processes import free_port

from .helpers import config, tiny_llama, token_ids

CLUSTERS = [0, 0, 0, 0, 1, 2, 3, 4]
STEPS = 3

WORKER = """
    import json, os, sys, torch, deepspeed
    import torch.distributed as dist
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from tests.adapter.test_zero import CLUSTERS, STEPS, make_model, optimizer, token_ids

    # Compiling it takes a minute, and gloo does without.
    ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
    deepspeed.init_distributed("gloo")
    model = make_model(checkpointing=sys.argv[2] == "checkpointing")
    zero = {"stage": int(sys.argv[1]), "stage3_param_persistence_threshold": 0}
    settings = {"train_micro_batch_size_per_gpu": 4, "zero_allow_untested_optimizer": True, "zero_optimization": zero}
    settings |= {"zero_force_ds_cpu_optimizer": False, "gradient_clipping": 1e9}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer(model), config=settings)
    mine = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    batch, clusters, seen = token_ids(8)[mine], torch.tensor(CLUSTERS)[mine], []
    for _ in range(STEPS):
        loss = engine(input_ids=batch, labels=batch, cluster_ids=clusters).loss
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        seen.append([total.item() / 2, float(engine.get_global_grad_norm())])
    if dist.get_rank() == 0:
        print("RESULT" + json.dumps(seen), flush=True)
    # As llava-mocle's command does: gloo's threads may abort a process that Python takes down.
    os._exit(0)
"""


def make_model(checkpointing=False):
    model = tiny_llama()
    torch.manual_seed(1)
    model = get_peft_model(model, config(gate_noise_std=0.0), autocast_adapter_dtype=False).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def optimizer(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def one_process():
    model, batch, seen = make_model(), token_ids(8), []
    steps = optimizer(model)
    for _ in range(STEPS):
        loss = model(input_ids=batch, labels=batch, cluster_ids=torch.tensor(CLUSTERS)).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        steps.step()
        steps.zero_grad()
        seen.append([loss.item(), norm.item()])
    return seen


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "checkpointing"), [(2, False), (3, False), (3, True)])
def test_unbalanced_routing_is_exact(tmp_path, stage, checkpointing):
    pytest.importorskip("deepspeed")
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    root = os.getcwd()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port())]
    command += [str(script), str(stage), "checkpointing" if checkpointing else "plain"]
    environment = {**os.environ, "PYTHONPATH": root, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(next(line for line in done.stdout.splitlines() if "RESULT" in line).partition("RESULT")[2])
    for (loss, norm), (expected_loss, expected_norm) in zip(found, one_process(), strict=True):
        assert loss == pytest.approx(expected_loss, abs=2e-6)
        assert norm == pytest.approx(expected_norm, abs=5e-6)
