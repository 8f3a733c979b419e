"""A run that starts from a trained adapter: equal to it at first, checked before weights, on its own afterwards."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from llava_mocle.cli.main import main
from llava_mocle.errors import CheckpointError, ConfigError, UserError
from llava_mocle.model.base_identity import identify
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training import run as run_module
from llava_mocle.training.dry_run import dry_run
from llava_mocle.training.run import train
from tests.training.ranks import ZERO, history, run
from tests.training.test_other_base import change_weights

TARGETS = r".*language_model.*\.(up_proj|down_proj)"
IDS = {"mocle": "cluster_ids", "cluster": "cluster_ids", "dataset": "dataset_ids"}


def write_lora(base: Path, folder: Path, **changes) -> Path:
    """A LoRA of PEFT's with random A, B and projector."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": TARGETS, "modules_to_save": ["multi_modal_projector"]}
    torch.manual_seed(3)
    model = LlavaForConditionalGeneration.from_pretrained(base)
    model = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **(options | changes)))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.2 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lora(base, tmp_path_factory.mktemp("adapter") / "lora")


class Begun(Exception):
    """In place of the first step."""


@pytest.fixture
def begin(recipe_file, monkeypatch: pytest.MonkeyPatch):
    """Everything of a run up to its first step; returns the model."""

    def up_to_the_first_step(**keys) -> PeftModel:
        made = []

        def stop(recipe, args, loaded, data, model, *rest):
            made.append(model)
            raise Begun

        recipe = load_recipe(recipe_file(**keys))
        with monkeypatch.context() as patch:
            patch.setattr(run_module, "MocleTrainer", stop)
            with pytest.raises(Begun):
                train(recipe)
        return made[0].eval()

    return up_to_the_first_step


@torch.no_grad()
def logits_of(model: torch.nn.Module, **ids: torch.Tensor) -> torch.Tensor:
    """Of two samples with an image each."""
    config = model.config
    size = config.vision_config.image_size // config.vision_config.patch_size
    torch.manual_seed(1)
    pixels = torch.randn(2, 3, config.vision_config.image_size, config.vision_config.image_size)
    image = torch.full((2, size**2), config.image_token_id)
    text = torch.randint(3, 40, (2, 5))
    return model(input_ids=torch.cat([image, text], dim=1), pixel_values=pixels, **ids).logits.double()


def loras_logits(base: Path, folder: Path) -> torch.Tensor:
    """By PEFT alone."""
    return logits_of(PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(base), folder).eval())


def close(found: torch.Tensor, expected: torch.Tensor, share: float = 2e-5) -> None:
    # float32: G s B A x + (1 - G) s B A x is summed in another order than s B A x.
    torch.testing.assert_close(found, expected, rtol=0, atol=share * expected.abs().max().item())


@pytest.mark.parametrize("adapter", ["mocle", "lora"])
@pytest.mark.parametrize(
    ("form", "alpha"), [({}, 8), ({"lora_alpha": 12}, 8), ({"use_rslora": True}, 8)], ids=["same", "12", "stabilised"]
)
def test_the_first_output_is_the_loras(base, tmp_path, begin, adapter: str, form: dict, alpha: int) -> None:
    """Whatever its scaling, and whatever the cluster: G + (1 - G) = 1."""
    folder = write_lora(base, tmp_path / "lora", **form)
    model = begin(adapter=adapter, warm_start=str(folder), lora_alpha=alpha)
    expected = loras_logits(base, folder)
    for ids in ([0, 1], [1, 0]):
        close(logits_of(model, **({} if adapter == "lora" else {"cluster_ids": torch.tensor(ids)})), expected)
    untrained = logits_of(LlavaForConditionalGeneration.from_pretrained(base).eval())
    assert (untrained - expected).abs().max() > 0.1


def test_a_lora_without_a_projector_starts_on_the_bases_own(base, tmp_path, begin) -> None:
    folder = write_lora(base, tmp_path / "lora", modules_to_save=None)
    close(logits_of(begin(warm_start=str(folder)), cluster_ids=torch.tensor([0, 1])), loras_logits(base, folder))


def test_in_pytorchs_own_file(base, lora, tmp_path, begin) -> None:
    folder = Path(shutil.copytree(lora, tmp_path / "bin"))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    close(logits_of(begin(warm_start=str(folder)), cluster_ids=torch.tensor([0, 1])), loras_logits(base, lora))


@pytest.mark.parametrize(
    ("keys", "weight"),
    [
        ({"adapter": "cluster"}, lambda gates: gates.max(dim=-1).values),
        ({"adapter": "cluster", "top_k": 2}, lambda gates: gates.topk(2, dim=-1).values.sum(dim=-1)),
        ({"adapter": "dataset"}, lambda gates: gates.max(dim=-1).values),
        ({"gate_mode": "released"}, lambda gates: gates.max(dim=-1).values ** 2 + 1 - gates.max(dim=-1).values),
    ],
)
def test_a_weaker_start_is_said(base, lora, begin, caplog, keys: dict, weight) -> None:
    """Each linear adds its weight's share of what the LoRA adds: a LoRA whose B are multiplied by hand is the same."""
    model = begin(warm_start=str(lora), **keys)
    total = weight(model.base_model.clean_gates())
    assert f"{total.min():.2f} to {total.max():.2f} of it (mean {total.mean():.2f})" in caplog.text
    name = IDS[keys.get("adapter", "mocle")]
    found = logits_of(model, **{name: torch.tensor([1, 1])})
    plain = PeftModel.from_pretrained(LlavaForConditionalGeneration.from_pretrained(base), lora).eval()
    with torch.no_grad():
        for site, share in zip(model.base_model.sites, total[1], strict=True):
            plain.base_model.model.get_submodule(site).lora_B["default"].weight.mul_(share)
    # Under gate_mode released the gates are float16, which rounds by up to 2 ** -11.
    close(found, logits_of(plain), 5e-4 if "gate_mode" in keys else 2e-5)


def test_an_exact_start_has_no_such_warning(lora, begin, caplog) -> None:
    begin(warm_start=str(lora))
    assert "of it (mean" not in caplog.text


@pytest.fixture
def trained(recipe_file, tmp_path: Path):
    """The folder of a run of ours, in which experts and gates have moved."""

    def write(name: str, **keys) -> Path:
        gates = {} if keys.get("adapter") == "lora" else {"gate_learning_rate": 0.05}
        train(load_recipe(recipe_file(output_dir=str(tmp_path / name), **gates, **keys)))
        return tmp_path / name

    return write


@pytest.mark.parametrize("adapter", ["mocle", "cluster", "dataset", "lora"])
def test_one_of_our_adapters_of_the_same_shape_is_taken_whole(trained, begin, adapter: str) -> None:
    folder = trained("first", adapter=adapter)
    model = begin(adapter=adapter, warm_start=str(folder), output_dir=str(folder.with_name("second")))
    found, expected = get_peft_model_state_dict(model), load_file(folder / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_our_own_lora_starts_experts_too(trained, begin, base) -> None:
    folder = trained("first", adapter="lora")
    assert main(["collapse", "--model", str(folder), "--output", str(folder.with_name("plain"))]) == 0
    model = begin(warm_start=str(folder), output_dir=str(folder.with_name("second")))
    close(logits_of(model, cluster_ids=torch.tensor([0, 1])), loras_logits(base, folder.with_name("plain")))


def test_other_clusters_and_other_images_are_said(trained, begin, tmp_path, clusters, caplog) -> None:
    from safetensors.torch import save_file

    folder = trained("first", image_aspect_ratio="square")
    file = folder / "clusters" / "centroids.safetensors"
    save_file({"centroids": load_file(file)["centroids"].flip(0).contiguous()}, file)
    begin(warm_start=str(folder), output_dir=str(tmp_path / "second"))
    assert "its gates were trained for other clusters" in caplog.text
    assert f"image_aspect_ratio is 'pad', and warm_start {folder} was trained with 'square'" in caplog.text


def test_a_run_goes_on_without_the_folder(recipe_file, lora, tmp_path: Path) -> None:
    """And as if it had not been cut off; the key itself must stay the same."""
    gone = Path(shutil.copytree(lora, tmp_path / "gone"))
    keys = {"warm_start": str(gone), "save_strategy": "steps", "save_steps": 2}
    whole = train(load_recipe(recipe_file(**keys, output_dir=str(tmp_path / "whole"))))
    recipe = load_recipe(recipe_file(**keys), ["--stop_after_steps", "2"])
    train(recipe)
    shutil.rmtree(gone)
    assert dry_run(load_recipe(recipe_file(**keys))).found.problems == []
    again = train(load_recipe(recipe_file(**keys)))
    assert history(tmp_path / "run") == history(tmp_path / "whole")
    weights = get_peft_model_state_dict(again.model)
    for name, value in get_peft_model_state_dict(whole.model).items():
        assert torch.equal(weights[name], value), name
    with pytest.raises(ConfigError, match=r"warm_start: .*gone' then, None now"):
        train(load_recipe(recipe_file(**(keys | {"warm_start": None}))))
    # A finished run that is started again takes no step, and needs no folder either.
    assert train(load_recipe(recipe_file(**keys))).state.global_step == 4


def settings(folder: Path, **changes) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def drop(folder: Path, part: str) -> None:
    from safetensors.torch import save_file

    file = folder / "adapter_model.safetensors"
    save_file({name: value for name, value in load_file(file).items() if part not in name}, file)


def changed(change):
    def write(folder: Path, base: Path) -> None:
        write_lora(base, folder)
        change(folder)

    return write


REFUSED = {
    "no folder": (lambda folder, base: None, {}, "no such file or directory"),
    "a file": (lambda folder, base: folder.touch(), {}, "has no adapter_config.json"),
    "a base": (lambda folder, base: shutil.copytree(base, folder), {}, "has no adapter_config.json"),
    "no weights": (changed(lambda f: (f / "adapter_model.safetensors").unlink()), {}, "the folder is incomplete"),
    "cut off": (changed(lambda f: (f / "adapter_model.safetensors").write_bytes(b"x")), {}, "cannot be read as"),
    "LLaVA's own": (changed(lambda f: (f / "non_lora_trainables.bin").touch()), {}, "convert --llava-lora"),
    "another kind": (changed(lambda f: settings(f, peft_type="IA3")), {}, "peft_type is 'IA3', expected LORA or MOCLE"),
    "DoRA": (changed(lambda f: settings(f, use_dora=True)), {}, "use_dora is True"),
    "PiSSA": (changed(lambda f: settings(f, init_lora_weights="pissa")), {}, "init_lora_weights is 'pissa'"),
    "trained biases": (changed(lambda f: settings(f, bias="all")), {}, "bias is 'all'"),
    "ranks of their own": (changed(lambda f: settings(f, rank_pattern={"up": 2})), {}, "rank_pattern is {'up': 2}"),
    "rank": (changed(lambda f: None), {"lora_r": 8}, "its rank is 4, and lora_r is 8; set lora_r to 4"),
    "fewer sites": (
        lambda f, base: write_lora(base, f, target_modules=r".*language_model.*\.up_proj"), {},
        r"down_proj\.lora_A\.weight \(and 3 more\) is not in the folder; .*set lora_target_modules to up_proj",
    ),
    "more sites": (
        lambda f, base: write_lora(base, f, target_modules=r".*language_model.*\.(up_proj|down_proj|q_proj)"), {},
        r"q_proj\.lora_A\.weight \(and 3 more\) has no place .*set lora_target_modules to down_proj,q_proj,up_proj",
    ),
    "half a projector": (changed(lambda f: drop(f, "linear_1.bias")), {}, r"linear_1\.bias is not in the folder"),
    "a layer less": (changed(lambda f: drop(f, "layers.1")), {}, "is not in the folder; give an adapter of this base"),
    "two projectors": (changed(lambda f: None), {"pretrain_mm_mlp_adapter": "x"}, "leave pretrain_mm_mlp_adapter out"),
    "stage 1": (changed(lambda f: None), {"stage": "pretrain"}, "warm_start is .* in stage pretrain"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_weights(recipe_file, base, tmp_path, monkeypatch, name: str) -> None:
    """By a run and by a dry run alike."""
    write, keys, message = REFUSED[name]
    folder = tmp_path / "adapter"
    write(folder, base)
    monkeypatch.setattr(run_module, "load_start", lambda *args: pytest.fail("weights are loaded"))
    path = recipe_file(warm_start=str(folder), **keys)
    with pytest.raises(UserError, match=message):
        train(load_recipe(path))
    with pytest.raises(UserError, match=message):
        dry_run(load_recipe(path)).found.refuse()


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"num_experts": 2}, "its num_experts is 3, and this run's is 2"),
        ({"adapter": "cluster"}, r"its universal_expert is True, and this run's is False \(adapter decides it\)"),
        ({"adapter": "lora"}, "its router is 'cluster', and this run's is 'none'"),
        ({"gate_mode": "released"}, "its gate_mode is 'paper', and this run's is 'released'"),
        ({"lora_r": 2}, "its rank is 4, and lora_r is 2"),
    ],
)
def test_our_adapters_of_another_shape_are_refused(trained, recipe_file, tmp_path, keys, message: str) -> None:
    folder = trained("first", max_steps=1)
    with pytest.raises(ConfigError, match=message):
        train(load_recipe(recipe_file(warm_start=str(folder), output_dir=str(tmp_path / "second"), **keys)))


def test_a_lora_of_another_base_is_refused(base, lora, recipe_file, tmp_path, caplog) -> None:
    folder = Path(shutil.copytree(lora, tmp_path / "lora"))
    (folder / "base_fingerprint.json").write_text(identify(base).to_json())
    train(load_recipe(recipe_file(warm_start=str(folder), max_steps=1, output_dir=str(tmp_path / "own"))))
    other = Path(shutil.copytree(base, tmp_path / "other"))
    change_weights(other)
    path = recipe_file(warm_start=str(folder), model_name_or_path=str(other), max_steps=1)
    with pytest.raises(CheckpointError, match=f"{folder}: was trained on another base than {other}"):
        train(load_recipe(path))
    with pytest.raises(CheckpointError, match="was trained on another base"):
        dry_run(load_recipe(path)).found.refuse()
    train(load_recipe(path, ["--allow_other_base", "true"]))
    assert "was trained on another base" in caplog.text


def test_a_dry_run_says_what_it_starts_from(recipe_file, base, lora, tmp_path) -> None:
    assert f"\nstarts from {lora}\n" in dry_run(load_recipe(recipe_file(warm_start=str(lora)))).text
    keys = {"model_name_or_path": "not/here", "model_config": str(base / "config.json")}
    found = dry_run(load_recipe(recipe_file(warm_start=str(tmp_path / "later"), **keys))).found
    assert found.problems == []
    assert f"warm_start {tmp_path / 'later'}: no such folder" in found.unchecked


def test_an_adapter_as_the_base_points_here(recipe_file, lora) -> None:
    with pytest.raises(ConfigError, match=f"give its base folder here, and --warm_start {lora} to start from its"):
        train(load_recipe(recipe_file(model_name_or_path=str(lora))))


@pytest.mark.slow
@pytest.mark.parametrize("zero", [None, 2, 3])
def test_two_processes_start_as_one(recipe_file, lora, tmp_path: Path, zero: int | None) -> None:
    """The loss of the first step comes from the LoRA; those after it from what it learnt."""
    keys = {"warm_start": str(lora), "gate_noise_std": 0.0, "max_steps": 3}
    words = ["--output_dir", str(tmp_path / "one"), "--per_device_train_batch_size", "8"]
    run(tmp_path / "logs1", recipe_file(**keys), *words)
    words = ["--output_dir", str(tmp_path / "two"), *(["--deepspeed", ZERO[zero]] if zero else [])]
    said = run(tmp_path / "logs2", recipe_file(**keys), *words, count=2)
    assert f"starts from {lora}: a LoRA of rank 4 on 4 linears, with what was trained beside it" in said.output()
    one, two = history(tmp_path / "one"), history(tmp_path / "two")
    # float32, summed in another order on two processes.
    assert two == [pytest.approx(step, rel=1e-4) for step in one]
