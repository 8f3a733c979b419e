"""Losses by the head on supervised tokens alone, against those from all logits: of every kind of model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import get_peft_model
from PIL import Image
from torch import nn

from llava_mocle.model.load import load_model
from llava_mocle.model.supervised_head import SupervisedHead, put_supervised_head, why_not
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.training.loop.supervision import POSITIONS, Supervision, WithPositions
from llava_mocle.training.setup.adapter import adapter_config, freeze_all_but_projector, parts_of
from tests.data.conftest import make_row
from tests.families.tiny import TINY, save_tiny
from tests.model.checkpoints import randomise
from tests.tiny_instructblip import save_instructblip

KINDS = ["llava", "instructblip", *TINY]
# Float32 sums of the same products in another order.
FLOAT32 = 1e-6


def save(kind: str, folder: Path, base: Path) -> Path:
    if kind == "llava":
        return base
    return save_instructblip(folder, dropout=0.0) if kind == "instructblip" else save_tiny(kind, folder)


def adapted(model: Any) -> Any:
    arguments = AdapterArguments(lora_r=2, lora_alpha=4, num_experts=3, gate_noise_std=0.0)
    config = adapter_config(arguments, parts_of(model), datasets=["train"], centroids=None, cluster_shape=(2, 8))
    torch.manual_seed(5)
    found = get_peft_model(model, config)
    randomise(found, lambda name: "experts_B" in name or "gate_weight" in name)
    return found


def batch_of(loaded: Any, kind: str) -> dict[str, torch.Tensor]:
    """Three samples of different lengths, the last without anything to learn."""
    encoder = loaded.encoder(512)
    pixels = np.random.default_rng(1).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    rows = [
        make_row("<image>\nwhat is it?", "a red circle on the left", image="a"),
        make_row("<image>\nwhere?", "here", image="b"),
        make_row("<image>\nnothing?", "to learn", image="c"),
    ]
    samples = [encoder.encode(row, [image], ["x"]) | {"cluster_id": place % 2} for place, row in enumerate(rows)]
    samples[2]["labels"] = torch.full_like(samples[2]["labels"], -100)
    batch = encoder.collator()(samples)
    return {name: value for name, value in batch.items() if name != "dataset_ids"}


def gradients(model: nn.Module) -> dict[str, torch.Tensor]:
    found = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_loss_gradients_and_validation_of_every_kind(kind: str, tmp_path: Path, base: Path) -> None:
    loaded = load_model(save(kind, tmp_path / "base", base), device="cpu", attn="eager")
    model = adapted(loaded.model).train()
    batch = batch_of(loaded, kind)
    labels = batch.pop("labels")
    count = int((labels[:, 1:] != -100).sum())
    plain = Supervision(loaded.model, wanted=False)
    model(**batch, labels=labels, num_items_in_batch=torch.tensor(count)).loss.backward()
    expected_loss = model(**batch, labels=labels, num_items_in_batch=torch.tensor(count)).loss.item()
    expected, expected_logits = gradients(model), model(**batch).logits.detach()
    with torch.no_grad():
        expected_samples = plain.of_samples(model, batch, labels, None)

    fast = Supervision(model.get_base_model(), wanted=True)
    assert isinstance(fast.head, SupervisedHead)
    assert fast.head is model.get_base_model().get_output_embeddings()
    with fast.around(labels, None):
        outputs = model(**batch)
    loss = fast.loss_function(outputs, labels, num_items_in_batch=torch.tensor(count))
    loss.backward()
    assert outputs.logits.shape == (count,)
    assert loss.item() == pytest.approx(expected_loss, rel=FLOAT32)
    found = gradients(model)
    assert found.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    for name, value in expected.items():
        if name.endswith("key.bias"):
            # It moves all scores of a query alike, which the softmax does not see. So its gradient is 0, and what is
            # there is the rounding of sums that cancel, on either path: float32's 6e-8 of the largest gradients.
            assert max(float(value.abs().max()), float(found[name].abs().max())) <= 6e-8 * largest, name
            continue
        # Relative to the tensor's largest entry: single entries may be sums that cancel.
        atol = 2e-6 * float(value.abs().max()) + 1e-8 * largest
        torch.testing.assert_close(found[name], value, rtol=0, atol=atol)
    with torch.no_grad():
        losses, counts = fast.of_samples(model, batch, labels, None)
    torch.testing.assert_close(losses, expected_samples[0], rtol=FLOAT32, atol=0)
    assert torch.equal(counts, expected_samples[1])
    assert losses[2] == counts[2] == 0
    # Outside, and for `generate`, the head is what it was, to the bit.
    assert torch.equal(model(**batch).logits, expected_logits)


def test_stage_1(tmp_path: Path, base: Path) -> None:
    loaded = load_model(base, device="cpu")
    freeze_all_but_projector(loaded.model)
    batch = batch_of(loaded, "llava")
    batch.pop("cluster_ids")
    labels = batch.pop("labels")
    loaded.model(**batch, labels=labels).loss.backward()
    expected = gradients(loaded.model)
    fast = Supervision(loaded.model, wanted=True)
    with fast.around(labels, None):
        outputs = loaded.model(**batch)
    fast.loss_function(outputs, labels, num_items_in_batch=len(outputs.logits)).backward()
    found = gradients(loaded.model)
    assert found.keys() == expected.keys() == {f"model.multi_modal_projector.{name}" for name in (
        "linear_1.weight", "linear_1.bias", "linear_2.weight", "linear_2.bias"
    )}  # fmt: skip
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-6 * float(value.abs().max()))


def test_a_rank_without_supervision_has_zero_gradients_for_all(base: Path) -> None:
    loaded = load_model(base, device="cpu")
    model = adapted(loaded.model).train()
    batch = batch_of(loaded, "llava")
    labels = torch.full_like(batch.pop("labels"), -100)
    fast = Supervision(loaded.model, wanted=True)
    with fast.around(labels, None):
        outputs = model(**batch)
    loss = fast.loss_function(outputs, labels, num_items_in_batch=torch.tensor(5.0))
    assert loss.item() == 0
    loss.backward()
    found = gradients(model)
    assert found.keys() == {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(value.any() for value in found.values())


def test_the_head_keeps_names_ties_and_parameters(base: Path) -> None:
    model = load_model(base, device="cpu").model
    before, weight = dict(model.state_dict()), model.lm_head.weight
    head = put_supervised_head(model)
    assert model.lm_head is head
    assert head.weight is weight
    assert put_supervised_head(model) is head
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)


def refused(model: Any, caplog: pytest.LogCaptureFixture) -> str:
    caplog.clear()
    assert Supervision(model, wanted=True).head is None
    assert len(caplog.records) == 1
    caplog.clear()
    assert Supervision(model, wanted=True, talks=False).head is None
    assert Supervision(model, wanted=False).head is None
    assert not caplog.records
    return str(why_not(model))


def test_heads_that_cannot_say_why(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = load_model(base, device="cpu").model.requires_grad_(False)
    assert why_not(model) is None
    model.config.text_config.final_logit_softcapping = 30.0
    assert "final_logit_softcapping 30.0" in refused(model, caplog)
    model.config.text_config.final_logit_softcapping = None
    handle = model.lm_head.register_forward_hook(lambda *args: None)
    assert "watches or wraps" in refused(model, caplog)
    handle.remove()
    model.lm_head.requires_grad_(True)
    assert "trained itself" in refused(model, caplog)
    model.lm_head = nn.Sequential(nn.Linear(2, 2))
    assert "a Sequential, and not a plain linear" in refused(model, caplog)


def test_positions_come_with_the_batch() -> None:
    def collate(samples):
        return {"labels": torch.stack([sample["labels"] for sample in samples])}

    samples = [{"labels": torch.tensor([-100, 5, -100])}, {"labels": torch.tensor([7, 8, 9])}]
    assert WithPositions(collate)(samples)[POSITIONS].tolist() == [0, 3, 4]
