"""The tokens of the text that routes a sample, for an adapter that is routed by sentence."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from llava_mocle.clustering.instruction import InstructionRule, instruction_from_prompt, instruction_text

# The key of these tokens in a sample and in a batch, and what a batch is padded with, always on the right.
INSTRUCTION_IDS = "instruction_ids"
INSTRUCTION_PADDING = -1


@dataclass(frozen=True)
class InstructionTokens:
    """Tokenizes routing texts, without special tokens.

    Args:
        tokenizer: the language model's.
        rule: which text of a row it is.
    """

    tokenizer: Any
    rule: InstructionRule

    def of_row(self, row: Mapping[str, Any]) -> Tensor:
        """(L,) int64, of a training row; none where it shows an image and asks nothing.

        Raises:
            DataError: as `instruction_text`.
        """
        return self._ids(instruction_text(row, self.rule))

    def of_prompt(self, prompt: str | Sequence[str]) -> Tensor:
        """(L,) int64, of what a human asks: one text, or one a turn.

        Raises:
            DataError: as `instruction_from_prompt`.
        """
        return self._ids(instruction_from_prompt(prompt, self.rule))

    def _ids(self, text: str) -> Tensor:
        return torch.tensor(self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]).long()


def padded_instructions(rows: Sequence[Tensor]) -> Tensor:
    """(B, L): the tokens of several instructions, padded with -1."""
    return pad_sequence(list(rows), batch_first=True, padding_value=INSTRUCTION_PADDING)
