"""A blank image runs where there is none, and changes nothing."""

from pathlib import Path

import torch

from llava_mocle.model.load import load_model
from llava_mocle.training.setup.adapter import freeze_all_but_projector


def test_the_projector_has_a_gradient_of_zero(base: Path) -> None:
    loaded = load_model(base, trainable=True)
    model = loaded.model
    freeze_all_but_projector(model)
    batch = {"input_ids": torch.tensor([[5, 6, 7, 8]]), "use_cache": False}
    before = model(**batch).logits
    handle = loaded.family.run_connector_in_every_step(model)
    output = model(**batch, labels=batch["input_ids"])
    assert torch.equal(output.logits, before)
    output.loss.backward()
    gradients = [parameter.grad for parameter in model.parameters() if parameter.requires_grad]
    assert len(gradients) == 4
    assert all(gradient is not None and not gradient.any() for gradient in gradients)
    handle.remove()
    assert not model(**batch).logits.requires_grad
