import math

import torch

from llava_mocle.adapter.gating import gate_probabilities, mixing_weights

LOGITS = torch.tensor([[0.1, 0.4, -0.2]], dtype=torch.float64)


def test_probabilities_are_a_tempered_softmax():
    exponents = [math.exp(value / 0.5) for value in LOGITS[0].tolist()]
    expected = torch.tensor([[value / sum(exponents) for value in exponents]], dtype=torch.float64)
    assert (gate_probabilities(LOGITS, 0.5) - expected).abs().max() < 1e-15


def test_released_softmax_is_rounded_to_half_precision():
    found = gate_probabilities(LOGITS, 0.5, "released")
    assert found.dtype == torch.float64
    assert torch.equal(found, found.half().double())
    assert 0 < (found - gate_probabilities(LOGITS, 0.5)).abs().max() < 1e-3


def test_weights_of_both_modes():
    gate = torch.tensor([[0.5], [0.25]], dtype=torch.float64)
    weight, universal = mixing_weights(gate, "paper", universal=True)
    assert weight.tolist() == [[0.5], [0.25]]
    assert universal.tolist() == [0.5, 0.75]
    weight, universal = mixing_weights(gate, "released", universal=True)
    assert weight.tolist() == [[0.25], [0.0625]]
    assert universal.tolist() == [0.5, 0.75]
    for mode in ("paper", "released"):  # without a universal expert the published layer applies the gate once
        weight, universal = mixing_weights(gate, mode, universal=False)
        assert weight.tolist() == [[0.5], [0.25]]
        assert universal is None


def test_the_universal_weight_of_the_released_code_is_rounded_to_half_precision():
    gate = torch.tensor([[0.30004883]], dtype=torch.float16).double()  # a number of fp16; 1 - it lies between two
    _, universal = mixing_weights(gate, "released", universal=True)
    assert universal.dtype == torch.float64
    assert torch.equal(universal, (1 - gate[..., 0]).half().double())
    assert universal.item() != 1 - gate.item()
