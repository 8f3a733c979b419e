"""The state's split over GPUs, by hand on a small example."""

from dataclasses import replace

import pytest

from llava_mocle.planning.activations import Activations
from llava_mocle.planning.communication import traffic
from llava_mocle.planning.hardware import GIB, Cluster, find_gpu
from llava_mocle.planning.memory import CONTEXT, DDP, OFFLOAD, ZERO2, ZERO3, model_state
from llava_mocle.planning.precision import Precision
from llava_mocle.planning.shapes import Connector, Counts, Experts, ModelShape, Tower

# 1000 frozen parameters in all and 103 trained ones, on 4 GPUs: the largest part of 103 is 26.
SHAPE = ModelShape(
    hidden=10,
    intermediate=20,
    heads=2,
    kv_heads=2,
    head_dim=5,
    vocab=30,
    layer_sites=((), ()),
    gated_mlps=(False, False),
    layer_linear=400,
    layer_rows=30,
    experts=Experts(rank=2, slots=5, top_k=1, universal=True, routed=True),
    tower=Tower(4, 100, 10, 5),
    connector=Connector(forward_flops=1120, backward_flops=2040, kept=96),
    counts=Counts(language_model=800, vision_tower=160, frozen_projector=40, experts=60, router=3, projector=40),
    usual_length=2048,
    small=7,
    supervised_head=True,
)
HALF = Precision.of(deepspeed=True, half=True, weights=2)
AUTOCAST = Precision.of(deepspeed=False, half=True, weights=2)
BUCKETS = 2 * 10 * 10 * 2


def test_bytes_of_each_kind():
    assert (HALF.weights, HALF.trainable, HALF.gradients, HALF.master, HALF.moments) == (2, 2, 2, 4, 8)
    assert (AUTOCAST.weights, AUTOCAST.trainable, AUTOCAST.gradients, AUTOCAST.master) == (2, 4, 4, 0)
    assert AUTOCAST.autocast
    assert not HALF.autocast


def test_without_deepspeed_every_gpu_holds_all():
    state = model_state(SHAPE, DDP, AUTOCAST, gpus=4)
    assert (state.language_model, state.vision_tower, state.projector) == (1600, 320, 80)
    assert (state.trainable, state.gradients, state.optimizer) == (412, 412, 824)
    assert state.buckets == 412  # DDP sends from a copy
    assert model_state(SHAPE, DDP, AUTOCAST, gpus=1).buckets == 0
    assert state.resident == 1600 + 320 + 80 + 412 + 412 + 824 + 412


def test_zero2_splits_gradients_and_optimizer():
    state = model_state(SHAPE, ZERO2, HALF, gpus=4)
    assert (state.language_model, state.trainable) == (1600, 206)
    assert (state.gradients, state.optimizer, state.step) == (26 * 2, 26 * (4 + 8), 26 * 4)
    assert state.buckets == BUCKETS


def test_zero3_splits_everything():
    state = model_state(SHAPE, ZERO3, HALF, gpus=4)
    assert (state.language_model, state.vision_tower, state.projector, state.trainable) == (400, 80, 20, 52)
    assert (state.gradients, state.optimizer, state.step) == (52, 312, 104)
    # The model is smaller than what may be gathered at once; small tensors are whole everywhere.
    assert state.buckets == (1103 + 7) * 2 + BUCKETS
    large = replace(SHAPE, counts=replace(SHAPE.counts, language_model=5 * 10**9))
    assert model_state(large, ZERO3, HALF, gpus=4).buckets == (10**9 + 7) * 2 + BUCKETS


def test_offload_moves_the_partition_to_the_host():
    state = model_state(SHAPE, OFFLOAD, HALF, gpus=4, gpus_per_node=2)
    assert state.language_model == state.trainable == state.optimizer == 0
    assert state.gradients == 52
    # Two GPUs of a node: weights, optimizer, 16 bit and float32 gradients of their parts.
    assert state.host == 2 * (400 + 80 + 20 + 52 + 312 + 52 + 104)


def test_the_peak_is_in_backward_or_in_the_step():
    state = model_state(SHAPE, ZERO2, HALF, gpus=4)
    assert state.peak(Activations(kept=1000, loss=300, layer=200)) == state.resident + 1300
    assert state.peak(Activations(kept=10, loss=3, layer=2)) == state.resident + 104
    assert state.total(Activations(0, 0, 0), 80 * GIB) == state.resident + 104 + CONTEXT + 8 * GIB


def test_traffic_by_hand():
    """On 4 GPUs a ring sends 3/4 of what is gathered or scattered, and twice that for an all-reduce."""
    options = {"gpus": 4, "accumulation": 2, "checkpointing": True}
    ddp = traffic(SHAPE, DDP, AUTOCAST, **options)
    assert (ddp.gathered, ddp.reduced) == (0, 2 * 412 * 3 // 4)  # once a step
    zero2 = traffic(SHAPE, ZERO2, HALF, **options)
    assert (zero2.gathered, zero2.reduced) == (206 * 3 // 4, 2 * (206 * 3 // 4))  # gradients in every micro-batch
    zero3 = traffic(SHAPE, ZERO3, HALF, **options)
    gathered = 2 * (3 * (800 + 103) + 160)
    assert (zero3.gathered, zero3.reduced) == (2 * (gathered * 3 // 4), 2 * (206 * 3 // 4))
    twice = traffic(SHAPE, ZERO3, HALF, gpus=4, accumulation=2, checkpointing=False)
    assert twice.gathered == 2 * (2 * (2 * 903 + 160) * 3 // 4)
    alone = traffic(SHAPE, ZERO3, HALF, gpus=1, accumulation=2, checkpointing=True)
    assert alone.gathered == alone.reduced == 0


def test_bandwidth_is_that_of_the_slower_link():
    gpu = find_gpu("A100-80")
    assert Cluster.of(gpu, 8).bandwidth == pytest.approx(0.7 * 300e9)
    assert Cluster.of(gpu, 8, nodes=2).bandwidth == pytest.approx(0.7 * 200e9)
    assert Cluster.of(gpu, 8, nodes=2, network_gbit=100).bandwidth == pytest.approx(0.7 * 12.5e9)
