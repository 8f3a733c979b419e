"""Operations against torch's own counter, and against arithmetic by hand."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from llava_mocle.planning.compute import forward_flops, training_flops
from llava_mocle.planning.measure import measure_shape
from tests.planning.small import IMAGE_TOKENS, make_batch, make_model

SAMPLES, LENGTH = 5, 48


def counted(model, backward):
    batch = make_batch(model, SAMPLES, LENGTH)
    with FlopCounterMode(display=False) as counter:
        loss = model(**batch).loss
        if backward:
            loss.backward()
    return counter.get_total_flops()


# The gates' products are counted by torch and not by us: S E D + K D multiply-adds a sample, three times with their
# backward. At these sizes that is 0.1 %; at 7B below 1e-6.
TOLERANCE = 0.003


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
def test_forward_and_backward(changes):
    model = make_model(attention="eager", **changes)
    shape = measure_shape(model)
    forward = forward_flops(shape, samples=SAMPLES, length=LENGTH, images=SAMPLES)
    assert forward.total == pytest.approx(counted(model, backward=False), rel=TOLERANCE)
    both = training_flops(shape, samples=SAMPLES, length=LENGTH, images=SAMPLES, checkpointing=False)
    assert both.total == pytest.approx(counted(model, backward=True), rel=TOLERANCE)


def test_checkpointing_runs_the_layers_again_and_differentiates_the_tower():
    """Recomputation stops at the last tensor that is needed, so a last product or so of a layer is not run again."""
    plain, again = (make_model(attention="eager", checkpointing=on) for on in (False, True))
    both = training_flops(measure_shape(again), samples=SAMPLES, length=LENGTH, images=SAMPLES, checkpointing=True)
    measured = counted(again, backward=True)
    assert both.total == pytest.approx(measured, rel=0.03)
    assert both.total >= measured
    assert measured > 1.2 * counted(plain, backward=True)


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
