"""InstructBLIP with MoCLE: what is trained, what a checkpoint holds, and answers against plain loops."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import InstructBlipForConditionalGeneration, InstructBlipVideoForConditionalGeneration

from llava_mocle import collapse
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.inference import Predictor
from llava_mocle.inference.request import Request
from llava_mocle.model.load import LoadedModel, load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.run import train
from tests.tiny_instructblip import QUERIES, recipe_values, row, save_instructblip

# float32 sums in another order, here of logits of size 5.
FLOAT32 = 2e-5
QUESTION = "what colour is it?"


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory, instructblip_base: Path, instructblip_rows: Path, instructblip_clusters
) -> Path:
    """A checkpoint with MoCLE after four steps."""
    import yaml

    folder = tmp_path_factory.mktemp("trained")
    values = recipe_values(instructblip_base, instructblip_rows, instructblip_clusters, folder / "run")
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    train(load_recipe(folder / "recipe.yaml"))
    return folder / "run"


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.from_pretrained(trained)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.new("RGB", (30 + 9 * number, 40), (90 * number, 200, 250 - 70 * number)) for number in range(3)]


# ------ parts


def test_what_is_trained_and_what_stays_frozen(trained: Path) -> None:
    model = load_model(trained, trainable=True).model
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    beside = {name for name in names if "mocle_" not in name}
    base = {name: parameter for name, parameter in model.named_parameters() if ".modules_to_save." in name}
    assert "base_model.model.query_tokens" in beside
    assert {name.split(".modules_to_save")[0] for name in beside if "modules_to_save" in name} == {
        "base_model.model.qformer",
        "base_model.model.language_projection",
        "base_model.model.vision_model.post_layernorm",
    }
    assert beside - {"base_model.model.query_tokens"} <= base.keys()
    sites = {name.split(".mocle_experts")[0] for name in names if "mocle_experts" in name}
    assert sites == {
        f"base_model.model.language_model.model.layers.{layer}.self_attn.{linear}"
        for layer in range(2)
        for linear in ("q_proj", "v_proj")
    }


def test_every_trained_parameter_beside_the_experts_has_a_gradient(trained: Path, pictures) -> None:
    """Several processes wait for it. That of what no loss reaches, the question's way out of the Q-Former, is zero."""
    loaded = load_model(trained, trainable=True)
    encoder, model = loaded.encoder(), loaded.model
    samples = [encoder.encode(row("r", f"is it {word}?", "yes", "a.png"), pictures[:1], ["a"]) for word in "ab"]
    model(**encoder.collator()(samples), cluster_ids=torch.tensor([0, 1])).loss.backward()
    beside = {n: p for n, p in model.named_parameters() if ".modules_to_save." in n or "query_tokens" in n}
    assert all(parameter.grad is not None for parameter in beside.values())
    assert beside["base_model.model.query_tokens"].grad.any()


def test_a_run_trains_query_tokens_and_connector(trained: Path, instructblip_base: Path) -> None:
    before, after = load_file(instructblip_base / "model.safetensors"), load_file(trained / "adapter_model.safetensors")
    prefix = "base_model.model."
    moved = {n for n, v in after.items() if "mocle" not in n and not torch.equal(v, before[n.removeprefix(prefix)])}
    for part in ("query_tokens", "language_projection.weight", "vision_model.post_layernorm.weight"):
        assert f"{prefix}{part}" in moved
    assert any("crossattention" in name for name in moved)


def test_all_weights_of_a_16_bit_model_have_one_dtype(instructblip_base: Path) -> None:
    model = load_model(instructblip_base, dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16} == {model.dtype}


# ------ folders


def test_a_checkpoint_opens_in_a_fresh_process(predictor: Predictor, pictures, trained: Path, tmp_path: Path) -> None:
    pictures[0].save(tmp_path / "a.png")
    code = (
        "import sys, json; from llava_mocle.inference import Predictor; "
        "from llava_mocle.inference.request import Request\n"
        "p = Predictor.from_pretrained(sys.argv[1])\n"
        f"r = p.rank(Request({QUESTION!r}, sys.argv[2]), ['red', 'green'])\n"
        "print(json.dumps([r.scores, r.cluster_id]))"
    )
    command = [sys.executable, "-c", code, str(trained), str(tmp_path / "a.png")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = predictor.rank(Request(QUESTION, tmp_path / "a.png"), ["red", "green"])
    assert json.loads(said.splitlines()[-1]) == [list(found.scores), found.cluster_id]


def test_a_folder_without_the_id_of_the_image_token(instructblip_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(instructblip_base, tmp_path / "base")
    config = json.loads((folder / "config.json").read_text())
    expected = config.pop("image_token_index")
    (folder / "config.json").write_text(json.dumps(config))
    assert load_model(folder).model.config.image_token_id == expected


def broken_folder(folder: Path, wrong: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if wrong == "tokenizer":
        shutil.rmtree(folder / "qformer_tokenizer")
    elif wrong == "id":
        config["image_token_index"] -= 1
    elif wrong == "size":
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        settings["size"] = {"height": 56, "width": 56}
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    else:
        config["text_config"] = {"model_type": "t5", "d_model": 32}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("tokenizer", "qformer_tokenizer: no such folder; expected the Q-Former's tokenizer"),
        ("id", "the tokenizer's id of <image> is 307, the model's image_token_index is 306"),
        ("size", "images become 56 px high, but the vision tower takes 28 px"),
        ("decoder", "the language model is a t5, an encoder-decoder"),
    ],
)
def test_folders_that_cannot_be_used(wrong: str, message: str, instructblip_base: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(instructblip_base, tmp_path / "base")
    broken_folder(folder, wrong)
    with pytest.raises(CheckpointError, match=message):
        load_model(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("stage", "pretrain"), ("pretrain_mm_mlp_adapter", "stage1"), ("vision_tower", "clip")],
)
def test_there_is_no_stage_1(key: str, value: str, instructblip_recipe, tmp_path: Path) -> None:
    from llava_mocle.training.setup.base_defaults import settle

    with pytest.raises(ConfigError, match=f"{key} is '{value}'.*of the InstructBLIP kind, which has no stage 1"):
        settle(load_recipe(instructblip_recipe(**{key: value})))


# ------ answers


def looped(predictor: Predictor, question: str, images: list, cluster: int, steps: int) -> str:
    """The greedy answer by whole forwards of the longer and longer text."""
    encoder, model = predictor.encoder, predictor.model
    answer = encoder.prompt(predictor._turns(Request(question, images)), images)
    ids = answer["input_ids"]
    start = len(ids)
    for _ in range(steps):
        batch = encoder.collator()([answer | {"input_ids": ids}])
        with torch.inference_mode():
            logits = model(**batch, cluster_ids=torch.tensor([cluster]), use_cache=False).logits
        ids = torch.cat([ids, logits[0, -1].argmax()[None]])
        if ids[-1] == predictor.tokenizer.eos_token_id:
            break
    return predictor.tokenizer.decode(ids[start:], skip_special_tokens=True).strip()


def test_greedy_answers_of_a_batch_equal_whole_forwards(predictor: Predictor, pictures) -> None:
    """One with a picture, one with a longer question, one about a video of two frames; two clusters."""
    asked = [
        Request(QUESTION, pictures[0]),
        Request("question: what is the colour of picture 12? short answer:", pictures[1], cluster_id=1),
        Request("is it red?", pictures[1:], cluster_id=0),
    ]
    found = predictor.predict_batch(asked, max_new_tokens=8)
    for request, prediction in zip(asked, found, strict=True):
        expected = looped(predictor, request.prompt, request.image_list, prediction.cluster_id, 8)
        assert prediction.text == expected
        assert prediction == predictor.predict_batch([request], max_new_tokens=8)[0]


def test_beams_find_what_an_exhaustive_search_of_two_tokens_finds(predictor: Predictor, pictures) -> None:
    """With as many beams as there are tokens, nothing is pruned."""
    request = Request(QUESTION, pictures[0], cluster_id=1)
    vocabulary = len(predictor.tokenizer)
    sample = predictor.encoder.prompt(predictor._turns(request), request.image_list)
    start = len(sample["input_ids"])
    logprobs = []
    for first in [None, *range(vocabulary)]:
        first = 0 if first == predictor.family.image_token_id else first
        ids = sample["input_ids"] if first is None else torch.cat([sample["input_ids"], torch.tensor([first])])
        batch = predictor.encoder.collator()([sample | {"input_ids": ids}])
        with torch.inference_mode():
            logits = predictor.model(**batch, cluster_ids=torch.tensor([1]), use_cache=False).logits[0, -1]
        logprobs.append(logits.double().log_softmax(-1))
    both = logprobs[0][:, None] + torch.stack(logprobs[1:])
    end, image = predictor.tokenizer.eos_token_id, predictor.family.image_token_id
    both[image], both[:, image] = float("-inf"), float("-inf")  # the forwards above would look for its image
    both[end] = float("-inf")  # an answer that has ended has one token
    best = divmod(int(both.argmax()), vocabulary)
    # transformers divides by the length, so a first token that ends the answer counts in full.
    expected = list(best) if both.max() / 2 > logprobs[0][end] else [end]
    batch = predictor.encoder.collator(left=True)([sample])
    options = {"max_new_tokens": 2, "num_beams": vocabulary, "do_sample": False, "early_stopping": False}
    options["suppress_tokens"] = [image]
    with torch.inference_mode():
        output = predictor.model.generate(**batch, cluster_ids=torch.tensor([1]), **options)
    assert output[0, start:].tolist() == expected


def test_ranking_equals_direct_scoring(predictor: Predictor, pictures) -> None:
    answers = ["red", "dark green", "it is yes"]
    for images in (pictures[:1], pictures[:2]):
        request = Request(QUESTION, images)
        ranking = predictor.rank(request, answers)
        for answer, score in zip(answers, ranking.scores, strict=True):
            asked = row("r", QUESTION, answer, *["a.png"] * len(images)) | {"video": len(images) > 1}
            sample = predictor.encoder.encode(asked, images, ["a.png"] * len(images))
            batch = predictor.encoder.collator()([sample])
            with torch.inference_mode():
                logits = predictor.model(**batch, cluster_ids=torch.tensor([ranking.cluster_id])).logits
            losses = F.cross_entropy(logits[0, :-1], batch["labels"][0, 1:], reduction="sum", ignore_index=-100)
            assert score == pytest.approx(-float(losses), rel=FLOAT32)


def test_a_video_is_what_transformers_own_class_makes_of_it(instructblip_base: Path, pictures) -> None:
    """Frames of one clip have their features behind each other. Same weights, same order of sums: equal bits."""
    loaded = load_model(instructblip_base)
    clip = row("r", QUESTION, "red", "a", "b", "c") | {"video": True}
    batch = loaded.encoder().collator()([loaded.encoder().encode(clip, pictures, ["a", "b", "c"])])
    video = InstructBlipVideoForConditionalGeneration.from_pretrained(instructblip_base, attn_implementation="sdpa")
    video.config.video_token_id = loaded.image_token_id
    with torch.inference_mode():
        ours = loaded.model(**batch).logits
        theirs = video.eval()(
            **batch | {
                "pixel_values": batch["pixel_values"][None],
                "qformer_input_ids": batch["qformer_input_ids"][:1],
                "qformer_attention_mask": batch["qformer_attention_mask"][:1],
            }
        ).logits  # fmt: skip
    assert int((batch["input_ids"] == loaded.image_token_id).sum()) == 3 * QUERIES
    assert torch.equal(ours, theirs)


# ------ export


def test_a_collapsed_cluster_answers_through_peft_alone(
    predictor: Predictor, pictures, trained: Path, instructblip_base: Path, tmp_path: Path
) -> None:
    collapse(load_model(trained).model, 1, tmp_path / "plain")
    sample = predictor.encoder.encode(row("r", QUESTION, "red", "a.png"), pictures[:1], ["a.png"])
    batch = predictor.encoder.collator()([sample])
    plain = InstructBlipForConditionalGeneration.from_pretrained(instructblip_base)
    plain = PeftModel.from_pretrained(plain, tmp_path / "plain").eval()
    with torch.inference_mode():
        expected = predictor.model(**batch, cluster_ids=torch.tensor([1])).logits
        other = predictor.model(**batch, cluster_ids=torch.tensor([0])).logits
        found = plain(**batch).logits
    assert (found - expected).abs().max() < FLOAT32 < (other - expected).abs().max()


def test_a_collapsed_cluster_is_asked_like_any_checkpoint(
    predictor: Predictor, pictures, trained: Path, tmp_path: Path
) -> None:
    """Its file holds the query tokens, which a plain LoRA's configuration has no key for."""
    folder = collapse(load_model(trained).model, 1, tmp_path / "plain")
    found = Predictor.from_pretrained(folder).rank(Request(QUESTION, pictures[0]), ["red", "green"]).scores
    expected = predictor.rank(Request(QUESTION, pictures[0], cluster_id=1), ["red", "green"]).scores
    # Sums of the log-probabilities of a few tokens, each of size 5 in float32.
    assert found == pytest.approx(expected, abs=1e-4)
    file = folder / "adapter_model.safetensors"
    weights = load_file(file)
    (name,) = [name for name in weights if name.endswith("query_tokens")]
    save_file(weights | {f"{name}_2": weights[name].clone()}, file)
    with pytest.raises(CheckpointError, match=r"1 weight.* unknown to the model, for example .*query_tokens_2"):
        load_model(folder)


def test_a_base_without_key_value_heads_of_its_own(tmp_path: Path) -> None:
    """A language model with grouped keys, as Mistral's and SmolLM2's."""
    folder = save_instructblip(tmp_path / "grouped", num_key_value_heads=1)
    loaded: LoadedModel = load_model(folder)
    answer = Predictor(loaded).predict(Image.new("RGB", (28, 28)), QUESTION, max_new_tokens=3)
    assert answer.num_tokens <= 3
