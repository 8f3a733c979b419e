"""The self-check finds what an engine would pass over in silence."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_mocle.errors import CheckpointError
from llava_mocle.export.bundle import Bundle
from llava_mocle.export.self_check import Tolerances, check_bundle, expected_logits, questions_of
from llava_mocle.model.load import load_model

ROUTES = {"cluster_0": 0, "universal": None}
EXACT = Tolerances.of(torch.float32, torch.float32, False)


@pytest.fixture(scope="module")
def trained(checkpoint_dir: Path) -> tuple:
    loaded = load_model(checkpoint_dir, dtype="float32", device="cpu")
    batches = questions_of(loaded)
    return batches, expected_logits(loaded.model, batches, ROUTES)


@pytest.fixture
def copied(bundle: Bundle, tmp_path: Path) -> Path:
    for part in ("base", "adapters"):
        shutil.copytree(bundle.folder / part, tmp_path / part)
    return tmp_path


def change(file: Path, how: object) -> None:
    weights = load_file(file)
    how(weights)  # type: ignore[operator]
    save_file(weights, file, metadata={"format": "pt"})


def test_a_good_bundle(copied: Path, trained: tuple) -> None:
    found = check_bundle(copied, *trained, False, EXACT, torch.float32)
    assert set(found) == {"base", "cluster_0", "universal"}
    assert found["base"].error < 1e-5
    # Float32 rounding of logits is 1e-6 of them, and the effects are as large as they.
    assert max(found[name].error for name in ROUTES) < 1e-4
    assert min(found[name].effect for name in ROUTES) > 0.1


def test_the_universal_reference_is_the_universal_expert(copied: Path, trained: tuple) -> None:
    """Its expected logits come of weights of 0 for every cluster; here they are those of its LoRA alone."""
    shutil.rmtree(copied / "adapters/cluster_0")
    shutil.copytree(copied / "adapters/universal", copied / "adapters/cluster_0")
    with pytest.raises(CheckpointError, match=r"effect on the logits is off by .* for cluster_0"):
        check_bundle(copied, *trained, False, EXACT, torch.float32)


def test_an_adapter_that_does_nothing(copied: Path, trained: tuple) -> None:
    file = copied / "adapters/cluster_0/adapter_model.safetensors"
    change(file, lambda weights: [tensor.zero_() for name, tensor in weights.items() if "lora_B" in name])
    with pytest.raises(CheckpointError, match=r"off by 1\.0e\+00 of its size for cluster_0"):
        check_bundle(copied, *trained, False, EXACT, torch.float32)


def test_keys_of_another_model(copied: Path, trained: tuple) -> None:
    """What vLLM takes with success, and then ignores."""
    file = copied / "adapters/cluster_0/adapter_model.safetensors"
    weights = {name.replace("model.language_model.", ""): tensor for name, tensor in load_file(file).items()}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="missing from it"):
        check_bundle(copied, *trained, False, EXACT, torch.float32)


@pytest.mark.parametrize("what", ["missing", "unexpected", "other"])
def test_a_wrong_base(what: str, copied: Path, trained: tuple) -> None:
    def spoil(weights: dict[str, torch.Tensor]) -> None:
        if what == "missing":
            del weights["multi_modal_projector.linear_1.bias"]
        elif what == "unexpected":
            weights["more"] = torch.zeros(1)
        else:
            weights["multi_modal_projector.linear_1.weight"] += 0.1

    change(copied / "base/model.safetensors", spoil)
    message = "logits are off" if what == "other" else f"1 weight\\(s\\) are {what}"
    with pytest.raises(CheckpointError, match=message):
        check_bundle(copied, *trained, False, EXACT, torch.float32)


def test_an_untrained_adapter(copied: Path, trained: tuple) -> None:
    batches, expected = trained
    alike = expected | {"cluster_0": expected["base"]}
    file = copied / "adapters/cluster_0/adapter_model.safetensors"
    change(file, lambda weights: [tensor.zero_() for name, tensor in weights.items() if "lora_B" in name])
    with pytest.raises(CheckpointError, match="so it does nothing"):
        check_bundle(copied, batches, alike, False, EXACT, torch.float32)
