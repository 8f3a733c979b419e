"""The snippet of docs/data.md runs on a tiny base model."""

from pathlib import Path

import torch

from llava_mocle.data.tokenize import IGNORE_INDEX
from tests.docs.snippets import run_page


def test_the_page_tokenizes_a_row(user_folder: Path) -> None:
    names = run_page("data")
    sample = names["sample"]
    supervised = sample["labels"] != IGNORE_INDEX
    torch.testing.assert_close(sample["labels"][supervised], sample["input_ids"][supervised])
    answer = names["row"]["conversations"][1]["value"]
    assert answer in names["loaded"].tokenizer.decode(sample["labels"][supervised])
