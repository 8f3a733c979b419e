"""Operations against those that torch carries out, and against arithmetic by hand."""

from math import prod

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from llava_mocle.planning.compute import forward_flops, training_flops
from llava_mocle.planning.measure import measure_shape
from tests.planning.small import IMAGE_TOKENS, batch_shape, loss_of, make_batch, make_model

SAMPLES, LENGTH = 5, 48
# Where the operands stand among the arguments of a product.
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "addmm_": 1, "baddbmm": 1}


def operations(event):
    """Of one event of the profiler. It sees into functions of autograd, which torch's counter does not."""
    name = event.name.removeprefix("aten::")
    if name in PRODUCTS:
        left, right = event.input_shapes[PRODUCTS[name] :][:2]
        return 2 * prod(left) * right[-1]
    if name == "convolution":  # of patches that do not overlap
        images, weight = event.input_shapes[:2]
        return 2 * prod(weight) * images[0] * prod(size // weight[2] for size in images[2:])
    return 0


def run(model, backward):
    loss = loss_of(model, make_batch(model, SAMPLES, LENGTH))
    if backward:
        loss.backward()


def counted(model, backward):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as profiler:
        run(model, backward)
    return sum(map(operations, profiler.events()))


def predicted(model, checkpointing=False):
    supervised = batch_shape(model, SAMPLES, LENGTH).supervised
    return training_flops(
        measure_shape(model),
        samples=SAMPLES,
        length=LENGTH,
        images=SAMPLES,
        checkpointing=checkpointing,
        supervised=supervised,
    )


# The gates' products are counted by torch and not by us: S E D + K D multiply-adds a sample, three times with their
# backward. At these sizes that is 0.1 %; at 7B below 1e-6.
TOLERANCE = 0.003


def test_the_profiler_sees_what_torch_counts():
    model = make_model(attention="eager", fused=False)
    with FlopCounterMode(display=False) as counter:
        run(model, backward=True)
    assert counted(model, backward=True) == counter.get_total_flops()


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rank": 32, "kv_heads": 2},
        {"adapter": "top2"},
        {"adapter": "lora"},
        {"targets": "q_proj|v_proj|down_proj"},
    ],
)
def test_forward_and_backward(changes, fused):
    model = make_model(attention="eager", fused=fused, **changes)
    if not fused:  # the head that is fused has its gradient in the forward
        forward = forward_flops(measure_shape(model), samples=SAMPLES, length=LENGTH, images=SAMPLES)
        assert forward.total == pytest.approx(counted(model, backward=False), rel=TOLERANCE)
    assert predicted(model).total == pytest.approx(counted(model, backward=True), rel=TOLERANCE)


@pytest.mark.parametrize("fused", [True, False])
def test_checkpointing_runs_the_layers_again_and_differentiates_the_tower(fused):
    """Recomputation stops at the last tensor that is needed, so a last product or so of a layer is not run again."""
    once, again = (make_model(attention="eager", checkpointing=on, fused=fused) for on in (False, True))
    both, measured = predicted(again, checkpointing=True), counted(again, backward=True)
    # A whole MLP that is one function is run again to its end; beside that, the gates are left out as above.
    assert both.total == pytest.approx(measured, rel=TOLERANCE if fused else 0.03)
    assert both.total >= (1 - TOLERANCE) * measured
    assert measured > 1.2 * counted(once, backward=True)


def test_the_head_of_supervised_tokens_by_hand():
    """A third of the tokens costs a third of the head, and nothing else changes."""
    shape = measure_shape(make_model())
    whole, part = (
        training_flops(shape, samples=2, length=60, images=2, checkpointing=False, supervised=supervised)
        for supervised in (None, 40)
    )
    assert (whole.head, part.head) == (4 * 120 * 64 * 500, 4 * 40 * 64 * 500)
    assert whole.total - whole.head == part.total - part.head


def test_by_hand():
    """Closed forms, from the configuration alone."""
    shape = measure_shape(make_model(hidden=64, intermediate=176, layers=3, rank=8, vocab=500))
    forward = forward_flops(shape, samples=2, length=40, images=2)
    tokens = 80
    assert forward.layers == 2 * tokens * 3 * (4 * 64 * 64 + 3 * 64 * 176)
    assert forward.head == 2 * tokens * 64 * 500
    assert forward.attention == 3 * 2 * (2 * 2 * 40 * 40 * 64)
    # One task expert and the universal one, at two sites a layer.
    assert forward.experts == 2 * tokens * 3 * 2 * (8 * (64 + 176) + 8 * (176 + 64))
    assert forward.projector == 2 * (2 * IMAGE_TOKENS) * (32 * 64 + 64 * 64)
    patches, width = IMAGE_TOKENS + 1, 32
    layer = 2 * patches * (4 * width * width + 2 * width * 48) + 4 * patches * patches * width
    convolution = 2 * IMAGE_TOKENS * width * 3 * 14 * 14
    assert forward.vision == 2 * (3 * layer + convolution)
    both = training_flops(shape, samples=2, length=40, images=2, checkpointing=False)
    assert both.layers == 2 * forward.layers  # frozen: the gradient of the input alone
    assert both.experts == 3 * forward.experts
    assert both.vision == forward.vision
    assert both.recomputed == 0
