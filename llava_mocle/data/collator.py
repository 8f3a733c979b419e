"""Samples -> a padded batch, ids for the routers included."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from llava_mocle.data.instruction_tokens import INSTRUCTION_IDS, padded_instructions
from llava_mocle.data.tokenize import IGNORE_INDEX
from llava_mocle.errors import ConfigError

_IDS = ("cluster_id", "dataset_id")


@dataclass(frozen=True)
class Collator:
    """Pads to the longest sample of the batch, on the right unless it is told otherwise.

    Args:
        pad_token_id: what `input_ids` are padded with.
        left: pad on the left, for `generate`: every row's last token is then its prompt's.
        sequences: what else has one value a token, and what that is padded with.

    Returns a dict of
        input_ids (B, T) long, attention_mask (B, T) long, labels (B, T) long, absent when the samples have none,
        pixel_values (sum of the samples' images, 3, H, W), absent when no sample has an image,
        any other tensor of a sample in the same way: those of all samples behind each other, padded with zeros where
        their other dimensions differ (images of several sizes, or of several numbers of tiles),
        cluster_ids (B,) long, absent when the samples have none, dataset_ids (B,) long,
        instruction_ids (B, L) long, padded with -1 on the right, absent when the samples have none.

    Raises:
        ConfigError: `pad_token_id` is None.

    Example:
        With `pad_token_id=0`, image token 9 and two places an image, the samples

            input_ids [1, 9, 9, 5, 6], labels [-100, -100, -100, -100, 6], one image, cluster 3, dataset 0
            input_ids [1, 7, 8],       labels [-100, -100, 8],             no image,  cluster 1, dataset 1

        become

            input_ids      [[1, 9, 9, 5, 6],             attention_mask [[1, 1, 1, 1, 1],
                            [1, 7, 8, 0, 0]]                             [1, 1, 1, 0, 0]]
            labels         [[-100, -100, -100, -100, 6],
                            [-100, -100, 8, -100, -100]]
            pixel_values   (1, 3, H, W)      cluster_ids [3, 1]      dataset_ids [0, 1]
    """

    pad_token_id: int
    left: bool = False
    sequences: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.pad_token_id is None:
            raise ConfigError(
                "the tokenizer has no padding token; set pad_token in its tokenizer_config.json (Llama's: '<unk>')"
            )

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        ids = [sample["input_ids"] for sample in samples]
        batch = {
            "input_ids": self._pad(ids, self.pad_token_id),
            # From the lengths: the padding token may also occur inside a text.
            "attention_mask": self._pad([torch.ones_like(row) for row in ids], 0),
        }
        for key, value in ({"labels": IGNORE_INDEX} | dict(self.sequences)).items():
            if key in samples[0]:
                batch[key] = self._pad([sample[key] for sample in samples], value)
        if INSTRUCTION_IDS in samples[0]:
            batch[INSTRUCTION_IDS] = padded_instructions([sample[INSTRUCTION_IDS] for sample in samples])
        for key in dict.fromkeys(key for sample in samples for key in sample):
            if key not in batch and key not in _IDS:
                batch[key] = _stacked([sample[key] for sample in samples if key in sample])
        for key in _IDS:
            if key in samples[0]:
                batch[f"{key}s"] = torch.tensor([sample[key] for sample in samples], dtype=torch.long)
        return batch

    def _pad(self, rows: Sequence[torch.Tensor], value: int) -> torch.Tensor:
        side = "left" if self.left else "right"
        return pad_sequence(list(rows), batch_first=True, padding_value=value, padding_side=side)


def _stacked(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """Tensors (n, ...) behind each other, each with zeros up to the largest of every other dimension."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    if all(list(tensor.shape[1:]) == shape for tensor in tensors):
        return torch.cat(list(tensors))
    padded = []
    for tensor in tensors:
        whole = tensor.new_zeros(len(tensor), *shape)
        whole[(slice(None), *map(slice, tensor.shape[1:]))] = tensor
        padded.append(whole)
    return torch.cat(padded)
