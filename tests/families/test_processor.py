"""Every kind of model that has a processor: samples, batches, training, answers, ranking, saving, collapse."""

import json
import pickle
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel, get_peft_model
from PIL import Image

from llava_mocle.adapter import collapse
from llava_mocle.data.conversation import HUMAN, Turn, row_turns
from llava_mocle.data.image_limits import ImageOverLimit
from llava_mocle.data.measure import DROPPED
from llava_mocle.data.tokenize import RowTooLong
from llava_mocle.errors import CheckpointError, ConfigError, DataError
from llava_mocle.families.parts import connector_parameters
from llava_mocle.inference.predictor import Predictor
from llava_mocle.inference.ranking import log_likelihoods
from llava_mocle.inference.request import Request
from llava_mocle.model.load import load_model
from llava_mocle.model.processing import load_image_processor, load_tokenizer
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.training.setup.adapter import adapter_config, parts_of
from tests.data.conftest import make_row
from tests.families.tiny import TINY, save_tiny
from tests.model.checkpoints import randomise

KINDS = list(TINY)
SIZES = [(60, 40), (30, 70), (28, 28), (200, 20), (90, 91)]
# Each family's own words around the answers of ROW.
SUPERVISED = {
    "llava_next": " a red circle</s> on the left</s>",
    "smolvlm": " a red circle<end_of_utterance> on the left<end_of_utterance>",
    "idefics3": " a red circle<end_of_utterance> on the left<end_of_utterance>",
    "gemma3": "a red circle<end_of_turn>on the left<end_of_turn>",
    "paligemma": "a red circle</s>on the left</s>",
    "mistral3": "a red circle</s>on the left</s>",
}
CHATML = "a red circle<|im_end|>on the left<|im_end|>"
ROW = make_row(
    "<image>\nwhat is shown?", "a red circle", "<image>\nwhere is it?", "on the left", image=["a.png", "b.png"]
)
TEXT_ROW = make_row("where ?", "left, I think")


def picture(index: int) -> Image.Image:
    width, height = SIZES[index]
    values = np.random.default_rng(index).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@dataclass
class Ready:
    """A loaded tiny model with an adapter around it, and its encoder."""

    kind: str
    folder: Path
    loaded: Any
    encoder: Any
    model: PeftModel

    @property
    def samples(self) -> list[dict[str, Any]]:
        """Two images, one of another size, none; with clusters."""
        made = [
            self.encoder.encode(ROW, [picture(0), picture(1)], ["a", "b"]),
            self.encoder.encode(make_row("<image>\nx ?", "a circle", image="c"), [picture(3)], ["c"]),
        ]
        if self.loaded.family.kind.takes_text_only:
            made.append(self.encoder.encode(TEXT_ROW, [], []))
        return [sample | {"cluster_id": index % 2} for index, sample in enumerate(made)]


def _adapted(model: Any) -> PeftModel:
    arguments = AdapterArguments(lora_r=2, lora_alpha=4, num_experts=3, gate_noise_std=0.0, lora_dropout=0.0)
    config = adapter_config(arguments, parts_of(model), datasets=["train"], centroids=None, cluster_shape=(2, 8))
    torch.manual_seed(5)
    parts, adapted = parts_of(model), get_peft_model(model, config)
    assert adapted.base_model.fuse_mlps(parts.mlp, within=f"{parts.language_model}.") > 0
    randomise(adapted, lambda name: "experts_B" in name or "gate_weight" in name)
    return adapted


@pytest.fixture(scope="module", params=KINDS)
def ready(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Ready:
    folder = save_tiny(request.param, tmp_path_factory.mktemp(request.param) / "base")
    loaded = load_model(folder)
    return Ready(request.param, folder, loaded, loaded.encoder(512), _adapted(loaded.model).eval())


def forward_inputs(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name not in ("labels", "dataset_ids")}


# ------ samples


def test_what_is_supervised_are_the_answers(ready: Ready) -> None:
    sample = ready.samples[0]
    own = sample["labels"][sample["labels"] != -100]
    assert ready.loaded.tokenizer.decode(own) == SUPERVISED.get(ready.kind, CHATML)


def test_ids_are_the_processors(ready: Ready) -> None:
    processor, images = ready.loaded.family.processor, [picture(0), picture(1)]
    ids = ready.samples[0]["input_ids"].tolist()
    if ready.loaded.family.kind.chats:
        queue = iter(images)
        messages = [
            {
                "role": "user" if turn.role == HUMAN else "assistant",
                "content": [{"type": "image", "image": next(queue)} for _ in range(turn.text.count("<image>"))]
                + [{"type": "text", "text": turn.text.replace("<image>\n", "")}],
            }
            for turn in row_turns(ROW)
        ]
        made = processor.apply_chat_template(messages, tokenize=True, return_dict=True)
        assert list(made["input_ids"][0]) == ids
        return
    # PaliGemma: the processor takes one question, and the answer as its suffix.
    sample = ready.encoder.encode(make_row("<image>\nwhat ?", "a circle", image="a"), [images[0]], ["a"])
    made = processor(text=["<image>what ?"], images=[[images[0]]], suffix=["a circle"], return_tensors="pt")
    assert made["input_ids"][0].tolist() == sample["input_ids"].tolist()
    assert made["token_type_ids"][0].tolist() == sample["token_type_ids"].tolist()
    assert made["labels"][0].tolist() == sample["labels"].tolist()
    assert torch.equal(made["pixel_values"], sample["pixel_values"])


def test_lengths_come_from_headers_alone(ready: Ready, tmp_path: Path) -> None:
    files = []
    for index in range(len(SIZES)):
        picture(index).save(tmp_path / f"{index}.png")
        files.append(str(tmp_path / f"{index}.png"))
    groups = [[0], [1], [2], [3], [4], [0, 1], [3, 4, 2]]
    for group in groups:
        tags = "<image>\n" * len(group)
        row = make_row(f"{tags}what ?", "a circle", image=[files[index] for index in group])
        names = row["image"]
        real = len(ready.encoder.encode(row, [picture(index) for index in group], names)["input_ids"])
        # Among other rows, of which the last is cut.
        short = ready.loaded.encoder(real)
        long = make_row(row["conversations"][0]["value"], "a circle and more", image=names)
        assert short.measure([row, long, row], [names] * 3) == [real] * 3
        asked = [Turn(HUMAN, f"{tags}what ?")]
        assert ready.encoder.prompt_length(asked, names) == len(ready.encoder.prompt(asked, names)["input_ids"])
        rows = ready.encoder.candidates(asked, names, ["a circle", "left"]).rows
        assert ready.encoder.candidate_length(asked, names, ["a circle", "left"]) == len(rows[0]["input_ids"]) == real


@pytest.mark.parametrize("size", [(1, 2000), (2000, 1), (20, 1900), (1, 1)])
def test_an_extreme_image_is_refused_when_it_is_measured_or_not_at_all(
    ready: Ready, tmp_path: Path, size: tuple[int, int]
) -> None:
    image, name = Image.new("RGB", size), str(tmp_path / "extreme.png")
    image.save(name)
    row = make_row("<image>\nwhat ?", "a circle", image=name)
    try:
        (measured,) = ready.encoder.measure([row], [[name]])
    except DataError:
        with pytest.raises(DataError):
            ready.encoder.encode(row, [image], [name])
    else:
        assert measured == len(ready.encoder.encode(row, [image], [name])["input_ids"])


def test_an_icon_is_answered_or_refused(ready: Ready) -> None:
    """transformers' Mistral 3 cannot take an image of one token, where it is the only one."""
    asked = Request("what ?", Image.new("RGB", (5, 5), (200, 20, 20)))
    predictor = Predictor.from_pretrained(ready.folder, device="cpu")
    if ready.kind == "mistral3":
        with pytest.raises(DataError, match="at most 14 pixels, so it is one token"):
            predictor.predict_batch([asked], max_new_tokens=2)
    else:
        assert predictor.predict_batch([asked], max_new_tokens=2)[0].num_tokens <= 2


def test_an_image_that_padding_would_make_huge_is_refused(ready: Ready) -> None:
    """A square of 20,000 pixels a side would take 1.2 GB."""
    encoder = ready.loaded.family.encoder("chat", aspect_ratio="pad")
    row = make_row("<image>\nwhat ?", "a circle", image="thin.png")
    with pytest.raises(ImageOverLimit, match=r"thin\.png: 1 x 20000 pixels"):
        encoder.encode(row, [Image.new("RGB", (1, 20000))], ["thin.png"])


def test_a_prompt_is_the_start_of_its_sample(ready: Ready) -> None:
    # The tokenizer joins a newline and the spaces behind it: a header's end and an answer's start.
    for answer in ("  y", "\n  z", "a circle"):
        row = make_row("<image>\nwhat ?", answer, image="a")
        sample = ready.encoder.encode(row, [picture(0)], ["a"])
        asked = ready.encoder.prompt([Turn(HUMAN, "<image>\nwhat ?")], [picture(0)])
        ids = asked["input_ids"]
        assert torch.equal(sample["input_ids"][: len(ids)], ids)
        assert (sample["labels"][: len(ids)] == -100).all()
        assert sample["labels"][len(ids)] != -100
        for name in asked.keys() - {"input_ids"}:
            cut = sample[name][: len(ids)] if name == ready.loaded.family.kind.token_types else sample[name]
            assert torch.equal(cut, asked[name]), name


def test_an_encoder_goes_to_other_processes(ready: Ready) -> None:
    again = pickle.loads(pickle.dumps(ready.encoder))
    row = make_row("where is it ?<image>", "left", image="a")
    found, expected = (one.encode(row, [picture(4)], ["a"]) for one in (again, ready.encoder))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_an_image_that_cannot_be_read_is_measured_all_the_same(ready: Ready, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    row = make_row("<image>\nwhat ?", "a circle", image="x")
    # It is met when the row is loaded, where `corrupt_images` says what happens then.
    for name in (broken, tmp_path / "missing.png"):
        assert ready.loaded.encoder(4096).measure([row], [[str(name)]])[0] > 0


def test_cutting_spares_images_and_answers(ready: Ready) -> None:
    images, names = [picture(0), picture(1)], ["a", "b"]
    whole = ready.samples[0]
    ids, supervised = whole["input_ids"].tolist(), (whole["labels"] != -100).tolist()
    image_end = len(ids) - 1 - ids[::-1].index(ready.loaded.image_token_id)
    encoder = ready.loaded.encoder(len(ids) - 1)
    cut = encoder.encode(ROW, images, names)
    assert cut["input_ids"].tolist() == ids[:-1]
    assert cut["labels"].tolist() == whole["labels"].tolist()[:-1]
    with pytest.raises(RowTooLong, match="an image ends after"):
        ready.loaded.encoder(image_end).encode(ROW, images, names)
    assert ready.loaded.encoder(image_end).measure([ROW], [names]) == [DROPPED]
    one = make_row("<image>\nwhat is shown here, and where is it ?", "left", image="a")
    sample = ready.encoder.encode(one, images[:1], ["a"])
    first = (sample["labels"] != -100).tolist().index(True)
    with pytest.raises(RowTooLong, match="no answer starts before"):
        ready.loaded.encoder(first).encode(one, images[:1], ["a"])
    assert len(supervised) == len(ids)


def test_rows_that_do_not_fit_are_refused(ready: Ready) -> None:
    placeholder = ready.loaded.family.processor.image_token
    with pytest.raises(DataError, match="1 <image> tags for 2 images"):
        ready.encoder.encode(make_row("<image>\nx", "y", image=["a", "b"]), [picture(0)] * 2, ["a", "b"])
    if placeholder != "<image>":
        with pytest.raises(DataError, match="must not hold it itself"):
            ready.encoder.encode(make_row(f"<image>\n{placeholder}", "y", image="a"), [picture(0)], ["a"])
    if not ready.loaded.family.kind.takes_text_only:
        with pytest.raises(DataError, match="has no image"):
            ready.encoder.measure([TEXT_ROW], [[]])
    with pytest.raises(ConfigError, match="template of its own"):
        ready.loaded.family.template("vicuna_v1")


# ------ batches and training


def test_a_mixed_batch_equals_each_sample_alone(ready: Ready) -> None:
    samples = ready.samples
    collate = ready.encoder.collator()
    batch = collate(samples)
    with torch.no_grad():
        together = ready.model(**forward_inputs(batch)).logits
        for row, sample in enumerate(samples):
            alone = ready.model(**forward_inputs(collate([sample]))).logits[0]
            # Float32 sums in another order: the largest difference seen is 6e-6 at logits of about 3.
            torch.testing.assert_close(together[row, : len(alone)], alone, atol=5e-5, rtol=1e-4)


def test_a_step_reaches_experts_gates_and_the_whole_connector(ready: Ready) -> None:
    model, base = ready.model, ready.model.get_base_model()
    batch = ready.encoder.collator()(ready.samples)
    batch.pop("dataset_ids", None)
    found = {}
    model.train()
    for way in ("plain", "fused", "checkpointing"):
        model.base_model.fused = way != "plain"
        if way == "checkpointing":
            base.gradient_checkpointing_enable({"use_reentrant": False})
        model.zero_grad()
        output = model(**batch, use_cache=False)
        output.loss.backward()
        trained = {name: p.grad.clone() for name, p in model.named_parameters() if p.requires_grad}
        found[way] = output.loss.item(), trained
    base.gradient_checkpointing_disable()
    model.eval()
    model.zero_grad()
    plain = found["plain"]
    connector = connector_parameters(parts_of(base), model)
    trained = {name for name in plain[1] if "mocle" not in name}
    assert trained
    assert trained <= connector
    for name, gradient in plain[1].items():
        assert gradient.any() or "bias" in name or "gate_bias" in name, name
        for loss, gradients in found.values():
            assert loss == pytest.approx(plain[0], rel=1e-6)
            torch.testing.assert_close(gradient, gradients[name], atol=1e-6, rtol=1e-4)


def test_text_alone_gives_the_connector_a_gradient_of_zero(ready: Ready) -> None:
    family, model = ready.loaded.family, ready.model
    if not family.kind.takes_text_only:
        assert family.run_connector_in_every_step(model.get_base_model()) is None
        return
    batch = ready.encoder.collator()([ready.samples[2]])
    batch.pop("dataset_ids", None)
    model.train()
    before = model(**batch, use_cache=False).logits
    handle = family.run_connector_in_every_step(model.get_base_model())
    output = model(**batch, use_cache=False)
    assert torch.equal(output.logits, before)
    model.zero_grad()
    output.loss.backward()
    connector = {name: p for name, p in model.named_parameters() if p.requires_grad and "mocle" not in name}
    assert connector
    for name, parameter in connector.items():
        assert parameter.grad is not None, name
        assert not parameter.grad.any(), name
    # A batch with an image runs no blank.
    images = ready.encoder.collator()(ready.samples)
    images.pop("dataset_ids", None)
    with_hook = model(**images, use_cache=False).logits
    handle.remove()
    assert torch.equal(model(**images, use_cache=False).logits, with_hook)
    model.zero_grad()
    model(**batch, use_cache=False).loss.backward()
    assert all(parameter.grad is None for parameter in connector.values())
    model.eval()


# ------ answers


def prompts(ready: Ready) -> list[dict[str, Any]]:
    asked = [
        ([Turn(HUMAN, "<image>\n<image>\nwhat is shown ?")], [picture(0), picture(4)]),
        ([Turn(HUMAN, "<image>\nwhere ?")], [picture(1)]),
    ]
    if ready.loaded.family.kind.takes_text_only:
        asked.append(([Turn(HUMAN, "how many ?")], []))
    return [ready.encoder.prompt(*one) | {"cluster_id": index % 2} for index, one in enumerate(asked)]


@torch.no_grad()
def following(ready: Ready, sample: dict[str, Any], answer: list[int]) -> torch.Tensor:
    """Logits (T, V) behind a prompt and an answer, by a whole forward without a cache."""
    kind, longer = ready.loaded.family.kind, dict(sample)
    longer["input_ids"] = torch.cat([sample["input_ids"], torch.tensor(answer, dtype=torch.long)])
    if kind.token_types:
        # An answer is text, which PaliGemma reads from left to right: its type 1.
        tail = torch.full((len(answer),), 0 if kind.chats else 1)
        longer[kind.token_types] = torch.cat([sample[kind.token_types], tail])
    return ready.model(**forward_inputs(ready.encoder.collator()([longer])), use_cache=False).logits[0]


def loop(ready: Ready, sample: dict[str, Any], steps: int) -> list[int]:
    """Greedy."""
    answer: list[int] = []
    for _ in range(steps):
        logits = following(ready, sample, answer)[-1]
        logits[ready.loaded.image_token_id] = -torch.inf
        answer.append(int(logits.argmax()))
    return answer


@pytest.mark.parametrize("beams", [1, 2])
def test_generated_answers(ready: Ready, beams: int) -> None:
    samples = prompts(ready)
    options = {"max_new_tokens": 5, "do_sample": False, "num_beams": beams, "eos_token_id": None, "pad_token_id": 0}
    # A random model may write the placeholder of an image, for which there is none.
    options["suppress_tokens"] = [ready.loaded.image_token_id]
    options |= {"length_penalty": 0.0, "return_dict_in_generate": True, "output_scores": True}
    batch = forward_inputs(ready.encoder.collator(left=True)(samples))
    found = ready.model.generate(**batch, **options)
    answers = ready.loaded.family.new_tokens(found.sequences, batch["input_ids"].shape[1]).tolist()
    for row, sample in enumerate(samples):
        if beams == 1:
            assert answers[row] == loop(ready, sample, 5), (ready.kind, row)
        else:
            # The score of the best beam is its own: no beam has read another row's images.
            logits = following(ready, sample, answers[row])[-6:-1].log_softmax(-1)
            score = logits[range(5), answers[row]].sum()
            assert found.sequences_scores[row].item() == pytest.approx(score.item(), abs=5e-4), (ready.kind, row)


def direct(ready: Ready, row: dict[str, torch.Tensor], inputs: dict[str, torch.Tensor], routing: Any) -> float:
    """The summed log-probability of one candidate, by one forward of the whole conversation."""
    kind, given = ready.loaded.family.kind, dict(inputs)
    if kind.token_types:
        types = (row["labels"] != -100).long() if not kind.chats else None
        if types is None:
            made = ready.loaded.family.processor.create_mm_token_type_ids([row["input_ids"].tolist()])[0]
            types = torch.tensor(made)
        given[kind.token_types] = types[None]
    with torch.no_grad():
        logits = ready.model(input_ids=row["input_ids"][None], **given, **routing, use_cache=False).logits[0].double()
    own = row["labels"][1:] != -100
    scores = logits[:-1].log_softmax(-1).gather(1, row["input_ids"][1:, None])[:, 0]
    return float(scores[own].sum())


def test_ranking_equals_direct_scoring(ready: Ready) -> None:
    questions = [([Turn(HUMAN, "<image>\nwhat is shown ?")], [picture(0)])]
    if ready.loaded.family.kind.takes_text_only:
        questions.append(([Turn(HUMAN, "how many ?")], []))  # behind an image, whose positions must not stay
    routing = {"cluster_ids": torch.tensor([1])}
    for turns, images in questions:
        asked = ready.encoder.candidates(turns, images, ["a red circle", "left", "on the left, I think"])
        found = log_likelihoods(ready.loaded.family, ready.model, asked.rows, asked.inputs, routing)
        expected = [direct(ready, dict(row), dict(asked.inputs), routing) for row in asked.rows]
        # Float32 with and without a cache: the largest difference seen is 2e-5 at sums of about 90.
        assert found == pytest.approx(expected, abs=5e-4)


# ------ folders


def test_an_adapter_is_loaded_as_it_was(ready: Ready, tmp_path: Path) -> None:
    checkpoint = tmp_path / "checkpoint"
    with torch.no_grad():
        for name, parameter in ready.model.named_parameters():
            if parameter.requires_grad and "mocle" not in name:
                parameter.add_(0.01)
    ready.model.save_pretrained(checkpoint)
    ready.loaded.family.save(checkpoint)
    under = load_model(ready.folder)
    again = PeftModel.from_pretrained(under.model, checkpoint).eval()
    batch = forward_inputs(ready.encoder.collator()(ready.samples))
    with torch.no_grad():
        expected = ready.model(**batch).logits
        assert torch.equal(again(**batch).logits, expected)
    family = under.family.open(
        under.model.config, checkpoint, load_tokenizer(checkpoint), load_image_processor(checkpoint)
    )
    assert under.template == "chat"
    other = family.encoder("chat", max_length=512)
    for name, value in other.encode(ROW, [picture(0), picture(1)], ["a", "b"]).items():
        assert torch.equal(value, ready.samples[0][name]), name
    assert other.measure_key("x") == ready.encoder.measure_key("x")
    assert other.measure_key("y") != ready.encoder.measure_key("x")


def test_collapse_is_the_same_model(ready: Ready, tmp_path: Path) -> None:
    folder = collapse(ready.model, 1, tmp_path / "lora")
    # Of the adapter's own sites: a bare parameter is trained in place, in the base itself.
    plain = PeftModel.from_pretrained(load_model(ready.folder).model, folder).eval()
    batch = forward_inputs(ready.encoder.collator()(ready.samples))
    batch.pop("cluster_ids")
    with torch.no_grad():
        expected = ready.model(**batch, cluster_ids=torch.tensor([1] * len(batch["input_ids"]))).logits
        # Two float32 products in place of one: 4e-7 was seen.
        torch.testing.assert_close(plain(**batch).logits, expected, atol=1e-5, rtol=1e-5)


def test_a_folder_of_another_model_is_refused(ready: Ready, tmp_path: Path) -> None:
    family = ready.loaded.family
    other = SimpleNamespace(**vars(ready.loaded.model.config))
    other.model_type, other.image_token_id = ready.kind, 7
    with pytest.raises(CheckpointError, match="image token has the id"):
        family.open(other, ready.folder, ready.loaded.tokenizer, ready.loaded.image_processor)


# ------ folders as they are published

VIDEOS = {"video_processor_type": "SomeVideoProcessor", "fps": 2}


def as_published(ready: Ready, folder: Path, image_processor: str, processor: dict[str, Any] | None) -> Any:
    """The folder with the names that transformers' torchvision classes write, and the older place of a template."""
    shutil.copytree(ready.folder, folder)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    settings["image_processor_type"] = image_processor
    settings["processor_class"] = ready.loaded.family.kind.processor_class.__name__
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    (folder / "processor_config.json").unlink(missing_ok=True)
    if processor is None:
        (folder / "video_preprocessor_config.json").write_text(json.dumps(VIDEOS))
    else:
        (folder / "processor_config.json").write_text(json.dumps(processor))
    if (folder / "chat_template.jinja").is_file():
        source = (folder / "chat_template.jinja").read_text()
        (folder / "chat_template.jinja").unlink()
        (folder / "chat_template.json").write_text(json.dumps({"chat_template": source}))
    return ready.loaded.family.open(
        ready.loaded.model.config, folder, load_tokenizer(folder), load_image_processor(folder)
    )


PUBLISHED = {
    "llava_next": "LlavaNextImageProcessor",
    "llava_onevision": "LlavaOnevisionImageProcessorFast",
    "qwen2_vl": "Qwen2VLImageProcessor",
    "qwen2_5_vl": "Qwen2VLImageProcessorFast",
    "qwen3_vl": "Qwen2VLImageProcessorFast",
    "internvl": "GotOcr2ImageProcessorFast",
    "smolvlm": "SmolVLMImageProcessor",
    "idefics3": "Idefics3ImageProcessor",
    "gemma3": "Gemma3ImageProcessorFast",
    "paligemma": "SiglipImageProcessor",
    "mistral3": "PixtralImageProcessorFast",
}


def test_folders_as_they_are_published(ready: Ready, tmp_path: Path) -> None:
    for number, settings in enumerate((None, {"video_processor": VIDEOS})):
        family = as_published(ready, tmp_path / str(number), PUBLISHED[ready.kind], settings)
        sample = family.encoder("chat").encode(ROW, [picture(0), picture(1)], ["a", "b"])
        for name, value in sample.items():
            assert torch.equal(value, ready.samples[0][name]), name
        # What is not used here is kept for whoever has torchvision.
        family.save(tmp_path / "saved")
        kept = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
        if hasattr(family.processor, "video_processor"):
            assert kept["video_processor"] == VIDEOS
        assert kept["processor_class"] == ready.loaded.family.kind.processor_class.__name__


def test_a_folder_without_its_template(ready: Ready, tmp_path: Path) -> None:
    if not ready.loaded.family.kind.chats:
        return
    shutil.copytree(ready.folder, tmp_path / "bare")
    (tmp_path / "bare" / "chat_template.jinja").unlink()
    family = ready.loaded.family.open(
        ready.loaded.model.config,
        tmp_path / "bare",
        load_tokenizer(tmp_path / "bare"),
        load_image_processor(tmp_path / "bare"),
    )
    with pytest.raises(ConfigError, match="needs the chat template of its folder"):
        family.template("chat")
