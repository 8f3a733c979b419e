"""Two ranks with unbalanced routing against one process: losses and gradient norms under ZeRO-2 and ZeRO-3.

Rank 0 sees one cluster only, rank 1 four others, so that each rank leaves experts unused that the other trains.
Experts kept in modules of their own fail here: under ZeRO-2 by a wrong norm without an error, under ZeRO-3 by a crash.
InstructBLIP also trains modules, and a parameter in place, which is saved from what was gathered. With the token and
sentence routers rank 0 sees one word and one instruction only, and the loss has a balance loss, whose shares are those
of all ranks.
"""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from peft import get_peft_model, get_peft_model_state_dict

from llava_mocle.adapter import MlpNames
from tests.processes import free_port

from .helpers import config, tiny_llama, token_ids
from .instructblip import MODULES, PARAMETERS, TARGETS, inputs, tiny_instructblip
from .learned import learned

CLUSTERS = [0, 0, 0, 0, 1, 2, 3, 4]
STEPS = 3
# A router, and how its gates are shared.
LEARNED = ("token", "token block", "sentence", "sentence model")

WORKER = """
    import json, os, sys, torch, deepspeed
    import torch.distributed as dist
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder
    from peft import get_peft_model_state_dict
    from llava_mocle.training.checkpoints.engine_state import trainable_state
    from tests.adapter.test_zero import STEPS, make_batch, make_model, optimizer, with_balance

    # Compiling it takes a minute, and gloo does without.
    ShareMemCommBuilder.is_compatible = lambda self, verbose=False: False
    deepspeed.init_distributed("gloo")
    model = make_model(sys.argv[3], checkpointing=sys.argv[2] == "checkpointing")
    zero = {"stage": int(sys.argv[1]), "stage3_param_persistence_threshold": 0}
    settings = {"train_micro_batch_size_per_gpu": 4, "zero_allow_untested_optimizer": True, "zero_optimization": zero}
    settings |= {"zero_force_ds_cpu_optimizer": False, "gradient_clipping": 1e9}
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer(model), config=settings)
    def sum_over(total):
        dist.all_reduce(total)
        return total

    mine = slice(4 * dist.get_rank(), 4 * dist.get_rank() + 4)
    batch, seen = {name: values[mine] for name, values in make_batch(sys.argv[3]).items()}, []
    for _ in range(STEPS):
        loss = with_balance(engine.module, engine(**batch).loss, sum_over)
        engine.backward(loss)
        engine.step()
        total = loss.detach().clone()
        dist.all_reduce(total)
        seen.append([total.item() / 2, float(engine.get_global_grad_norm())])
    state = get_peft_model_state_dict(model, state_dict=trainable_state(engine.module, writer=True))
    if dist.get_rank() == 0:
        shapes = {name: list(values.shape) for name, values in state.items()}
        print("RESULT" + json.dumps([seen, shapes]), flush=True)
    # As llava-mocle's command does: gloo's threads may abort a process that Python takes down.
    os._exit(0)
"""


def make_model(kind, checkpointing=False):
    options = {"gate_noise_std": 0.0}
    base = tiny_instructblip() if kind == "instructblip" else tiny_llama()
    if kind == "instructblip":
        options |= {"target_modules": TARGETS, "modules_to_save": MODULES, "parameters_to_save": PARAMETERS}
    torch.manual_seed(1)
    settings = learned_config(kind) if kind in LEARNED else config(**options)
    model = get_peft_model(base, settings, autocast_adapter_dtype=False).train()
    if kind == "llama":
        assert model.base_model.fuse_mlps(MlpNames()) == 2
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model


def learned_config(kind):
    router, _, sharing = kind.partition(" ")
    options = {"target_modules": ["up_proj", "down_proj"], "task_type": "CAUSAL_LM", "balance_loss_weight": 0.3}
    return learned(router, gate_sharing=sharing or "site", gate_bias=bool(sharing), **options)


def with_balance(model, loss, sum_over=lambda total: total):
    """The loss and the mean balance loss of the samples, if the adapter has one."""
    parts = model.base_model.balance_losses(sum_over=sum_over)
    return loss if parts is None else loss + 0.3 * parts.mean()


def make_learned_batch():
    words = token_ids(8)
    words[:4] = words[0, 0]
    asked = torch.tensor([[5, 9, -1]] * 4 + [[40, 2, 7], [33, -1, -1], [12, 50, -1], [8, 8, 21]])
    mask = torch.ones_like(words)
    mask[[1, 5, 6], 4:] = 0
    return {"input_ids": words, "labels": words, "attention_mask": mask, "instruction_ids": asked}


def make_batch(kind):
    if kind in LEARNED:
        return make_learned_batch()
    batch = {"input_ids": token_ids(8)} if kind == "llama" else inputs(8)
    return {**batch, "labels": batch["input_ids"], "cluster_ids": torch.tensor(CLUSTERS)}


def optimizer(model):
    return torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)


def one_process(kind):
    model, batch, seen = make_model(kind), make_batch(kind), []
    model.base_model.fused = False  # the ranks' fused products are held against the plain path
    steps = optimizer(model)
    for _ in range(STEPS):
        loss = with_balance(model, model(**batch).loss)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1e9)
        steps.step()
        steps.zero_grad()
        seen.append([loss.item(), norm.item()])
    return seen, {name: list(values.shape) for name, values in get_peft_model_state_dict(model).items()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "stage", "checkpointing"),
    [
        ("llama", 2, False),
        ("llama", 3, False),
        ("llama", 3, True),
        ("instructblip", 2, False),
        ("instructblip", 3, True),
        ("token", 2, False),
        ("token", 3, True),
        ("token block", 3, False),
        ("sentence", 2, False),
        ("sentence", 3, True),
        ("sentence model", 3, False),
    ],
)
def test_unbalanced_routing_is_exact(tmp_path, kind, stage, checkpointing):
    pytest.importorskip("deepspeed")
    script = tmp_path / "worker.py"
    script.write_text(textwrap.dedent(WORKER))
    root = os.getcwd()
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["--master_port", str(free_port())]
    command += [str(script), str(stage), "checkpointing" if checkpointing else "plain", kind]
    environment = {**os.environ, "PYTHONPATH": root, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    found, shapes = json.loads(
        next(line for line in done.stdout.splitlines() if "RESULT" in line).partition("RESULT")[2]
    )
    expected, whole = one_process(kind)
    assert shapes == whole
    # Before the first update the two do the same sums, in another order.
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for (loss, norm), (expected_loss, expected_norm) in zip(found, expected, strict=True):
        assert loss == pytest.approx(expected_loss, abs=2e-6)
        assert norm == pytest.approx(expected_norm, abs=5e-6)
