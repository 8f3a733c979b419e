import pytest
import torch

from llava_mocle.data.collator import Collator
from llava_mocle.errors import ConfigError

FIRST = {
    "input_ids": torch.tensor([1, 9, 9, 5, 6]),
    "labels": torch.tensor([-100, -100, -100, -100, 6]),
    "pixel_values": torch.full((1, 3, 2, 2), 0.25),
    "cluster_id": 3,
    "dataset_id": 0,
}
SECOND = {
    "input_ids": torch.tensor([1, 7, 0]),  # the padding token inside a text is no padding
    "labels": torch.tensor([-100, -100, 0]),
    "cluster_id": 1,
    "dataset_id": 1,
}


def test_worked_example() -> None:
    batch = Collator(pad_token_id=0)([FIRST, SECOND])
    assert batch["input_ids"].tolist() == [[1, 9, 9, 5, 6], [1, 7, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert batch["labels"].tolist() == [[-100, -100, -100, -100, 6], [-100, -100, 0, -100, -100]]
    assert torch.equal(batch["pixel_values"], FIRST["pixel_values"])
    assert batch["cluster_ids"].tolist() == [3, 1]
    assert batch["dataset_ids"].tolist() == [0, 1]
    assert {value.dtype for key, value in batch.items() if key != "pixel_values"} == {torch.int64}


def test_instructions_are_padded_on_the_right_even_where_prompts_are_not() -> None:
    asked = [FIRST | {"instruction_ids": torch.tensor([4, 0])}, SECOND | {"instruction_ids": torch.zeros(0).long()}]
    batch = Collator(0, left=True)(asked)
    assert batch["instruction_ids"].tolist() == [[4, 0], [-1, -1]]
    assert batch["instruction_ids"].dtype == torch.int64


def test_images_of_all_samples_in_order() -> None:
    two = FIRST | {"pixel_values": torch.stack([torch.full((3, 2, 2), 1.0), torch.full((3, 2, 2), 2.0)])}
    batch = Collator(0)([two, SECOND, FIRST])
    assert batch["pixel_values"][:, 0, 0, 0].tolist() == [1.0, 2.0, 0.25]


def test_images_of_several_shapes_are_padded() -> None:
    """Two images of (2 tiles, 2 x 3 pixels), then one of (1 tile, 3 x 2 pixels)."""
    first = FIRST | {"pixel_values": torch.ones(2, 2, 3, 2, 3), "image_sizes": torch.tensor([[2, 3], [2, 3]])}
    second = FIRST | {"pixel_values": torch.full((1, 1, 3, 3, 2), 2.0), "image_sizes": torch.tensor([[3, 2]])}
    batch = Collator(0)([first, SECOND, second])
    expected = torch.zeros(3, 2, 3, 3, 3)
    expected[:2, :, :, :2, :] = 1.0
    expected[2, :1, :, :, :2] = 2.0
    assert torch.equal(batch["pixel_values"], expected)
    assert batch["image_sizes"].tolist() == [[2, 3], [2, 3], [3, 2]]


def test_values_a_token_are_padded_with_their_own() -> None:
    samples = [FIRST | {"kinds": torch.tensor([0, 1, 1, 0, 0])}, SECOND | {"kinds": torch.tensor([2, 2, 2])}]
    assert Collator(0, left=True, sequences={"kinds": 7})(samples)["kinds"].tolist() == [
        [0, 1, 1, 0, 0],
        [7, 7, 2, 2, 2],
    ]


def test_absent_keys_stay_absent() -> None:
    text = {key: value for key, value in SECOND.items() if key != "cluster_id"}
    batch = Collator(0)([text, text])
    assert set(batch) == {"input_ids", "attention_mask", "labels", "dataset_ids"}


def test_tokenizer_without_padding_token() -> None:
    with pytest.raises(ConfigError, match="pad_token"):
        Collator(None)  # type: ignore[arg-type]


def test_prompts_are_padded_on_the_left() -> None:
    prompts = [{"input_ids": torch.tensor([5, 6, 7])}, {"input_ids": torch.tensor([8])}]
    batch = Collator(3, left=True)(prompts)
    assert batch["input_ids"].tolist() == [[5, 6, 7], [3, 3, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert set(batch) == {"input_ids", "attention_mask"}


def test_other_sequences_have_lengths_and_padding_of_their_own() -> None:
    kinds = [torch.tensor([0, 1]), torch.tensor([1, 1, 1, 0])]
    samples = [row | {"kinds": kind} for row, kind in zip((FIRST, SECOND), kinds, strict=True)]
    batch = Collator(0, sequences={"kinds": 7})(samples)
    assert batch["kinds"].tolist() == [[0, 1, 7, 7], [1, 1, 1, 0]]
