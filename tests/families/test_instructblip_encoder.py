"""Ids and labels against LAVIS' rule, written out here; cuts, batches, and the rows that are refused."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from llava_mocle.data.conversation import HUMAN, Turn
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.row_dataset import RowDataset
from llava_mocle.errors import DataError
from llava_mocle.families.instructblip_encoder import InstructBlipEncoder
from llava_mocle.model.load import LoadedModel, load_model
from tests.tiny_instructblip import QUERIES, row

LONG = "what colour is picture " * 60
SAMPLES = {
    "short": ("what colour is it?", "red"),
    "several words": ("Question: is it grey? Short answer:", "yes, it is grey"),
    "outer space": ("  what is it? \n", " a picture\n"),
    "letters without a token": ("what is £ é?", "naïve"),
    "long question": (LONG + "end?", "red"),
    "long answer": ("what is it?", "red green " * 200),
    "both": (LONG, "blue " * 300),
}


@pytest.fixture(scope="module")
def loaded(instructblip_base: Path) -> LoadedModel:
    return load_model(instructblip_base)


@pytest.fixture(scope="module")
def encoder(loaded: LoadedModel) -> InstructBlipEncoder:
    return loaded.encoder()


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.new("RGB", (40, 30), (200, 10, 10))


def lavis(loaded: LoadedModel, question: str, answer: str) -> tuple[list[int], list[int], list[int]]:
    """Ids, labels and the Q-Former's ids by LAVIS' rule.

    Question and answer are tokenized apart, each with the start-of-text token; the question is cut to 128 tokens from
    the left, the answer with "</s>" to 256 from the right; the answer's start-of-text token is dropped; both stand
    behind the image. The Q-Former's text is cut to 128 from the left.
    """
    tokenizer, questions = loaded.tokenizer, loaded.family.qformer_tokenizer
    side = tokenizer.truncation_side
    tokenizer.truncation_side = "left"
    asked = tokenizer(question.strip(), truncation=True, max_length=128).input_ids
    tokenizer.truncation_side = "right"
    answered = tokenizer(answer.strip() + "</s>", truncation=True, max_length=256).input_ids
    tokenizer.truncation_side = side
    assert asked[0] == answered[0] == 1
    image = [loaded.image_token_id] * QUERIES
    everything = questions(question.strip(), add_special_tokens=False).input_ids
    cls, sep = questions.cls_token_id, questions.sep_token_id
    before = image + asked
    return before + answered[1:], [-100] * len(before) + answered[1:], [cls, *everything[-126:], sep]


@pytest.mark.parametrize("name", SAMPLES)
def test_ids_and_labels_are_those_of_lavis(
    name: str, loaded: LoadedModel, encoder: InstructBlipEncoder, picture: Image.Image
) -> None:
    question, answer = SAMPLES[name]
    sample = encoder.encode(row("r", question, answer, "a.png"), [picture], ["a.png"])
    ids, labels, question_ids = lavis(loaded, question, answer)
    assert sample["input_ids"].tolist() == ids
    assert sample["labels"].tolist() == labels
    assert sample["qformer_input_ids"].tolist() == question_ids
    assert sample["qformer_attention_mask"].tolist() == [1] * len(question_ids)
    assert (len(ids) == QUERIES + 128 + 255) == (name == "both")
    assert (ids[-1] == 2) == (len(answer) < 300)  # the end of turn goes where an answer is cut


def test_the_first_pair_of_a_conversation_counts(encoder: InstructBlipEncoder, picture: Image.Image) -> None:
    first = row("r", "what colour is it?", "red", "a.png")
    more = first["conversations"] + [{"from": "human", "value": "is it grey?"}, {"from": "gpt", "value": "no"}]
    one, two = (encoder.encode(each, [picture], ["a.png"]) for each in (first, first | {"conversations": more}))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


def test_pixels_are_those_of_the_processor(
    loaded: LoadedModel, encoder: InstructBlipEncoder, picture: Image.Image
) -> None:
    sample = encoder.encode(row("r", "what is it?", "red", "a.png"), [picture], ["a.png"])
    expected = loaded.image_processor(images=picture, return_tensors="pt")["pixel_values"]
    assert torch.equal(sample["pixel_values"], expected)


def test_a_prompt_is_the_row_without_its_answer(
    loaded: LoadedModel, encoder: InstructBlipEncoder, picture: Image.Image
) -> None:
    trained = encoder.encode(row("r", "what colour is it?", "red", "a.png"), [picture], ["a.png"])
    turns = [Turn(HUMAN, "<image>\nwhat colour is it?")]
    prompt = encoder.prompt(turns, [picture])
    answered = int((trained["labels"] == -100).sum())
    assert torch.equal(prompt["input_ids"], trained["input_ids"][:answered])
    assert torch.equal(prompt["qformer_input_ids"], trained["qformer_input_ids"])
    assert encoder.prompt_length(turns, [picture]) == answered
    # A question is not cut where the model answers it; what the Q-Former reads is.
    long = encoder.prompt([Turn(HUMAN, f"<image>\n{LONG}")], [picture])
    assert len(long["input_ids"]) == QUERIES + len(loaded.tokenizer(LONG.strip()).input_ids) > QUERIES + 128
    assert len(long["qformer_input_ids"]) == 128


def test_candidates_differ_in_their_answers(encoder: InstructBlipEncoder, picture: Image.Image) -> None:
    turns, answers = [Turn(HUMAN, "<image>\nwhat colour is it?")], ["red", "dark green"]
    asked = encoder.candidates(turns, [picture], answers)
    for found, answer in zip(asked.rows, answers, strict=True):
        expected = encoder.encode(row("r", "what colour is it?", answer, "a.png"), [picture], ["a.png"])
        assert torch.equal(found["input_ids"], expected["input_ids"])
        assert torch.equal(found["labels"], expected["labels"])
    assert {name: tuple(value.shape) for name, value in asked.inputs.items()} == {
        "pixel_values": (1, 3, 28, 28),
        "qformer_input_ids": (1, 8),
        "qformer_attention_mask": (1, 8),
    }
    assert encoder.candidate_length(turns, [picture], answers) == max(len(one["input_ids"]) for one in asked.rows)


@pytest.mark.parametrize("left", [False, True])
def test_the_questions_of_a_batch_are_padded_on_the_right_and_stand_once_a_frame(
    left: bool, loaded: LoadedModel, encoder: InstructBlipEncoder, picture: Image.Image
) -> None:
    one = encoder.encode(row("a", "is it red?", "yes", "a.png"), [picture], ["a.png"])
    clip = row("b", "what colour is picture 3?", "red", "a.png", "b.png") | {"video": True}
    two = encoder.encode(clip, [picture, picture], ["a.png", "b.png"])
    assert int((two["input_ids"] == loaded.image_token_id).sum()) == 2 * QUERIES
    batch = encoder.collator(left=left)([one, two])
    short, long = one["qformer_input_ids"].tolist(), two["qformer_input_ids"].tolist()
    padding = len(long) - len(short)
    assert batch["pixel_values"].shape == (3, 3, 28, 28)
    assert batch["qformer_input_ids"].tolist() == [short + [0] * padding, long, long]
    assert batch["qformer_attention_mask"].tolist() == [[1] * len(short) + [0] * padding, *[[1] * len(long)] * 2]
    assert batch["attention_mask"][0].tolist()[-1 if not left else 0] == 0


def dataset(folder: Path, encoder: InstructBlipEncoder, *rows: dict) -> RowDataset:
    Image.new("RGB", (28, 28)).save(folder / "a.png")
    (folder / "rows.json").write_text(json.dumps(list(rows)))
    return RowDataset(Mixture.load([DatasetSpec("d", str(folder / "rows.json"), str(folder))]), encoder)


WITHOUT_IMAGE = {"id": "r1", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
SHOWN_LATE = row("r1", "what is it?", "red", "a.png") | {"image": ["a.png", "a.png"], "video": True}
SHOWN_LATE["conversations"] += [{"from": "human", "value": "<image>\nand now?"}, {"from": "gpt", "value": "no"}]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        (WITHOUT_IMAGE, "the row has no image, and InstructBLIP takes none without one"),
        (row("r1", "q", "a", "a.png", "a.png"), 'the row has 2 images, and InstructBLIP takes one.*add "video": true'),
        (row("r1", "q", "a", "a.png") | {"video": "clip.mp4"}, "video is 'clip.mp4', expected true"),
        (SHOWN_LATE, "tag behind the first human turn"),
    ],
)
def test_rows_that_the_model_cannot_take(
    refused: dict, message: str, encoder: InstructBlipEncoder, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=rf"(?s)rows\.json.*r1.*{message}"):
        dataset(tmp_path, encoder, row("r0", "q", "a", "a.png"), refused)


def test_requests_that_the_model_cannot_take(encoder: InstructBlipEncoder, picture: Image.Image) -> None:
    with pytest.raises(DataError, match="found 1 turns and 0 images"):
        encoder.prompt([Turn(HUMAN, "what is it?")], [])


def test_rows_are_measured(loaded: LoadedModel, encoder: InstructBlipEncoder, tmp_path: Path) -> None:
    rows = [row(str(number), question, answer, "a.png") for number, (question, answer) in enumerate(SAMPLES.values())]
    found = dataset(tmp_path, encoder, *rows)
    assert found.dropped == 0
    assert found.lengths.tolist() == [len(found[index]["input_ids"]) for index in range(len(rows))]


def test_max_length_cuts_the_answer_and_drops_a_row_without_one(loaded: LoadedModel, tmp_path: Path) -> None:
    encoder = loaded.encoder(max_length=QUERIES + 60)
    rows = [row("0", "what is it?", "red " * 100, "a.png"), row("1", LONG, "red", "a.png")]
    found = dataset(tmp_path, encoder, *rows)
    assert found.dropped == 1
    assert len(found) == 1
    sample = found[0]
    assert len(sample["input_ids"]) == QUERIES + 60
    whole = loaded.encoder().encode(rows[0], [Image.new("RGB", (28, 28))], ["a.png"])
    assert torch.equal(sample["labels"], whole["labels"][: QUERIES + 60])
