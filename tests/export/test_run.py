"""What is exported answers as the trained model does, in PEFT and transformers alone; the rest is refused early."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, LlavaForConditionalGeneration

from llava_mocle.data.images import pad_to_square
from llava_mocle.errors import AssetError, CheckpointError, ConfigError, RoutingError
from llava_mocle.export import run, sizes
from llava_mocle.export.bundle import Bundle
from llava_mocle.export.request import Export
from llava_mocle.export.run import export
from llava_mocle.inference import Predictor, Request
from llava_mocle.io.folders import is_new_or_empty
from tests.inference import tiny

# What acts in vLLM. Others are taken without an error, and change nothing.
ACTS_IN_VLLM = re.compile(r"base_model\.model\.model\.language_model\.layers\.\d+\.mlp\.\w+_proj\.lora_[AB]\.weight")


def test_peft_answers_a_mixed_batch_as_the_predictor(bundle: Bundle, predictor: Predictor, images: list[Path]) -> None:
    """PEFT's `adapter_names` gives each row its adapter. All that is used here is transformers, PEFT and the bundle."""
    requests = [
        Request(question, images[index % 3] if index % 2 else None, cluster_id=cluster)
        for index, question in enumerate(tiny.QUESTIONS[:3])
        for cluster in range(3)
    ]
    expected = [item.text for item in predictor.predict_batch(requests, max_new_tokens=8)]
    names = [f"cluster_{request.cluster_id}" for request in requests]

    tokenizer = AutoTokenizer.from_pretrained(bundle.base, padding_side="left")
    image_processor = CLIPImageProcessorPil.from_pretrained(bundle.base)
    facts = bundle.routing.image
    prompts, pixels = [], []
    for request in requests:
        marks = "<image>\n" if request.images else ""
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": marks + request.prompt}], tokenize=False, add_generation_prompt=True
        )
        prompts.append(text.replace("<image>", "<image>" * (facts.tokens or 0)))
        if request.images:
            square = pad_to_square(Image.open(request.images), facts.background)
            pixels.append(image_processor(images=square, return_tensors="pt")["pixel_values"])
    inputs = tokenizer(prompts, add_special_tokens=False, return_tensors="pt", padding=True)
    model = LlavaForConditionalGeneration.from_pretrained(bundle.base)
    model = PeftModel.from_pretrained(model, bundle.folder / "adapters/cluster_0", adapter_name="cluster_0")
    for name in ("cluster_1", "cluster_2", "universal"):
        model.load_adapter(bundle.folder / "adapters" / name, adapter_name=name)
    model.eval()

    def answers(adapter_names: list[str]) -> list[str]:
        output = model.generate(
            **inputs,
            pixel_values=torch.cat(pixels),
            adapter_names=adapter_names,
            max_new_tokens=8,
            do_sample=False,
        )
        new = output[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in tokenizer.batch_decode(new, skip_special_tokens=True)]

    assert answers(names) == expected
    # Each row is told apart from another cluster's answer and from the base's.
    others = answers([f"cluster_{(int(name[-1]) + 1) % 3}" for name in names])
    base = answers(["__base__"] * len(names))
    assert sum(one != other for one, other in zip(expected, others, strict=True)) >= 6
    assert sum(one != other for one, other in zip(expected, base, strict=True)) >= 6


def test_names_and_weights(bundle: Bundle, checkpoint_dir: Path) -> None:
    base = load_file(bundle.base / "model.safetensors")
    towers = [name for name in base if name.startswith("vision_tower.")]
    assert towers
    assert all(name.startswith("vision_tower.vision_model.") for name in towers)
    assert "language_model.model.layers.0.mlp.up_proj.weight" in base
    trained = load_file(checkpoint_dir / "adapter_model.safetensors")
    for part in ("linear_1.weight", "linear_2.bias"):
        own = trained[f"base_model.model.model.multi_modal_projector.{part}"]
        assert torch.equal(base[f"multi_modal_projector.{part}"], own)
    for name in bundle.adapter_names:
        folder = bundle.folder / "adapters" / name
        weights = load_file(folder / "adapter_model.safetensors")
        assert weights
        assert all(ACTS_IN_VLLM.fullmatch(key) for key in weights)
        assert json.loads((folder / "adapter_config.json").read_text())["modules_to_save"] is None
    assert bundle.adapter_names == ["cluster_0", "cluster_1", "cluster_2", "universal"]
    assert bundle.manifest.ranks == {"cluster_0": 8, "cluster_1": 8, "cluster_2": 8, "universal": 4}


def test_routing(bundle: Bundle, predictor: Predictor) -> None:
    gates = predictor.model.base_model.clean_gates()
    for entry in bundle.routing.clusters:
        explanation = predictor.explain(tiny.QUESTIONS[0], cluster_id=entry.cluster)
        assert entry.universal_weight == pytest.approx(explanation.universal_weight, abs=1e-5)
        assert entry.nearest == explanation.nearest_instructions
        assert entry.samples == predictor.cluster_model.counts[entry.cluster]
        for index, site in enumerate(bundle.routing.sites):
            assert entry.experts[site] == (int(gates[entry.cluster, index].argmax()),)
            assert entry.gates[site][0] == pytest.approx(float(gates[entry.cluster, index].max()), abs=1e-5)
    routing = bundle.routing
    assert (routing.router, routing.num_experts, routing.num_clusters, routing.universal) == ("cluster", 3, 3, True)
    assert routing.ood is not None
    assert routing.ood.distance == predictor.cluster_model.distance_quantile(0.95)
    assert (routing.image.aspect_ratio, routing.image.size, routing.image.tokens) == ("pad", 32, 4)
    assert routing.stop_token_ids == (2,)
    texts = [*tiny.QUESTIONS, "Something else"]
    for own, other in zip(predictor.cluster_model.assign(texts), bundle.cluster_model().assign(texts), strict=True):
        np.testing.assert_array_equal(own, other)


def test_it_may_be_moved(bundle: Bundle, checkpoint_dir: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(bundle.folder, moved)
    Bundle.open(moved).check_hashes()
    assert Bundle.open(moved).manifest.model_id == Predictor.from_pretrained(checkpoint_dir).model_id
    for path in moved.rglob("*.json"):
        assert str(checkpoint_dir.parent) not in path.read_text(), path
    # Our own commands take its base as a model, too.
    assert Predictor.from_pretrained(moved / "base", device="cpu").predict(None, "Hi", max_new_tokens=2).num_tokens <= 2


def test_smaller_ranks(
    checkpoint_dir: Path, predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of `--rank` against numpy's singular values of the merged updates."""
    needed: list[int] = []
    monkeypatch.setattr(run, "refuse_full_disk", lambda output, size, what: needed.append(size))
    request = Export(str(checkpoint_dir), str(tmp_path / "out"), "sglang", clusters=[2, 0, 2], rank=3)
    bundle, _ = export(request)
    assert [entry.cluster for entry in bundle.routing.clusters] == [0, 2]
    assert set(bundle.manifest.ranks.values()) == {3}
    site = "model.language_model.layers.1.mlp.up_proj"
    layer = predictor.model.base_model.model.get_submodule(site)
    routing = predictor.model.base_model.cluster_routing(2)
    delta = layer.get_delta_weight("default", routing.site(predictor.model.base_model.sites.index(site)))
    values = np.linalg.svd(delta.double().numpy(), compute_uv=False)
    lost = bundle.manifest.truncation["cluster_2"]
    assert lost.sites[site] == pytest.approx(np.linalg.norm(values[3:]) / np.linalg.norm(values), rel=1e-5)
    assert min(lost.sites.values()) < lost.total < max(lost.sites.values())
    # SGLang passes over half of a gated MLP; PEFT multiplies by the zeros.
    weights = load_file(bundle.folder / "adapters/cluster_2/adapter_model.safetensors")
    name = f"base_model.model.{site.replace('up_proj', 'gate_proj')}"
    assert weights[f"{name}.lora_A.weight"].shape == (3, 48)
    assert not weights[f"{name}.lora_B.weight"].any()
    assert "gate_proj" in bundle.manifest.command
    # What the disk was asked for are these weights, the zeros too.
    files = [bundle.base / "model.safetensors", *bundle.folder.glob("adapters/*/adapter_model.safetensors")]
    assert needed == [sum(tensor.nbytes for file in files for tensor in load_file(file).values())]


def test_a_rank_that_loses_nothing_allows_nothing(
    checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An adapter that is a tenth too weak is refused, as without `--rank`."""
    write = run.write_lora
    monkeypatch.setattr(
        run, "write_lora", lambda folder, lora, *more: write(folder, replace(lora, scaling=0.9 * lora.scaling), *more)
    )
    with pytest.raises(CheckpointError, match=r"effect on the logits is off by .* at most 0\.01 is allowed"):
        export(Export(str(checkpoint_dir), str(tmp_path / "out"), clusters=[0], rank=8))


def test_merged(checkpoint_dir: Path, tmp_path: Path) -> None:
    bundle, found = export(Export(str(checkpoint_dir), str(tmp_path / "out"), "merged", clusters=[1]))
    assert not bundle.base.exists()
    assert list(found) == ["cluster_1"]
    model = Predictor.from_pretrained(checkpoint_dir, device="cpu", dtype="float32").model
    expected = model.merge_and_unload(cluster=1).state_dict()
    whole = LlavaForConditionalGeneration.from_pretrained(bundle.folder / "merged/cluster_1").state_dict()
    assert whole.keys() == expected.keys()
    assert all(torch.equal(whole[name], expected[name]) for name in whole)


def test_half_precision(checkpoint_dir: Path, tmp_path: Path) -> None:
    bundle, found = export(Export(str(checkpoint_dir), str(tmp_path / "out"), clusters=[0], dtype="bfloat16"))
    assert bundle.manifest.dtype == json.loads((bundle.base / "config.json").read_text())["dtype"] == "bfloat16"
    for file in bundle.folder.rglob("*model.safetensors"):
        if "encoder" not in file.parts:
            assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}, file
    assert 1e-5 < found["cluster_0"].error < 0.1


def test_routed_by_dataset(dataset_dir: Path, tmp_path: Path) -> None:
    bundle, _ = export(Export(str(dataset_dir), str(tmp_path / "out")))
    assert [(entry.name, entry.adapter) for entry in bundle.routing.clusters] == [
        ("shapes", "cluster_0"),
        ("scans", "cluster_1"),
    ]
    assert bundle.routing.ood is None
    assert "universal" not in bundle.manifest.ranks
    assert not bundle.clusters.exists()


# ------ refused


def adapter(folder: Path, base: Path, **settings: object) -> str:
    folder.mkdir()
    record = {"peft_type": "MOCLE", "base_model_name_or_path": str(base), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(record | settings))
    return str(folder)


def test_refused_before_a_model_is_loaded(
    base_dir: Path, checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*args: object, **options: object) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(run, "load_model", load)
    new, mine = str(tmp_path / "new"), str(checkpoint_dir)
    token = adapter(tmp_path / "token", base_dir, router="token", universal_expert=False)
    single = adapter(tmp_path / "none", base_dir, router="none", num_experts=1, universal_expert=False)
    large = adapter(tmp_path / "large", base_dir, num_clusters=2, cluster_dim=8, r=400)
    plain = adapter(tmp_path / "plain", base_dir, peft_type="LORA")
    tower = adapter(tmp_path / "tower", base_dir, num_clusters=2, cluster_dim=8, sites=["model.vision_tower.x.fc1"])
    for request, kind, message in (
        (Export(token, new), RoutingError, "router='token', which decides anew for every token"),
        (Export(single, new), RoutingError, "single LoRA"),
        (Export(plain, new), CheckpointError, "plain LoRA of PEFT"),
        (Export(str(base_dir), new), CheckpointError, "no adapter to export"),
        (Export(mine, new, clusters=[0, 3]), RoutingError, "cluster is 3, but this adapter has clusters 0 to 2"),
        (Export(mine, new, clusters=[-1]), RoutingError, "cluster is -1"),
        (Export(mine, new, rank=0), ConfigError, "rank is 0"),
        (Export(mine, new, "merged", rank=4), ConfigError, "--rank makes adapters smaller"),
        (Export(mine, new, "exl2"), ConfigError, "format is 'exl2'"),
        (Export(large, new), ConfigError, "rank 800, and vLLM has room for 512"),
        (Export(tower, new), CheckpointError, r"adapts model\.vision_tower\.x\.fc1.*--format merged"),
        (Export(mine, mine), CheckpointError, "is not an empty folder"),
        (Export(mine, new, "gguf"), AssetError, "llava_mocle\\[gguf\\]"),
    ):
        if request.format == "gguf":
            monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(kind, match=message):
            export(request)
        assert is_new_or_empty(new)


def test_a_full_disk_is_refused_before_anything_is_written(
    checkpoint_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an export that was killed has left is room, too."""
    (tmp_path / ".new.killed.tmp/base").mkdir(parents=True)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda place: usage._replace(free=2**20))
    with pytest.raises(ConfigError, match=r"3 merged models take 0\.2 GiB.*has 0\.0 GiB left"):
        export(Export(str(checkpoint_dir), str(tmp_path / "new"), "merged"))
    assert [path.name for path in tmp_path.iterdir()] == [".new.lock"]
