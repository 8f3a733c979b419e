"""Finding the answers whose batch could have decided them.

A row of a padded batch and the same row alone give logits that differ in their last bits (3.5e-5 measured on SmolLM2
in float32). Where the two likeliest tokens are nearer than that, the batch would choose between them. A `Predictor`
answers such rows again, alone, so that batching does not change greedy float32 answers.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor

# About ten times the difference measured; one token in several thousand is this close.
TIE_MARGIN = 3e-4


class TieRecorder(LogitsProcessor):
    """Notes the rows that came to a near tie before they ended; leaves the scores as they are.

    Args:
        end_ids: tokens after which a row is over, padding included.

    Attributes:
        close: (B,) bool, once `generate` has run.
    """

    def __init__(self, end_ids: Sequence[int], margin: float = TIE_MARGIN) -> None:
        self.end_ids = torch.tensor(list(end_ids), dtype=torch.long)
        self.margin = margin
        self.close: Tensor | None = None
        self._ended: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.close is None or self._ended is None:
            # The first call sees prompts, whose last token ends nothing.
            self.close = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
            self._ended = torch.zeros_like(self.close)
        else:
            self._ended |= torch.isin(input_ids[:, -1], self.end_ids.to(input_ids.device))
        first, second = scores.topk(2, dim=-1).values.unbind(dim=-1)
        self.close |= (first - second < self.margin) & ~self._ended
        return scores

    @property
    def rows(self) -> list[int]:
        """The rows that came to a near tie."""
        return [] if self.close is None else self.close.nonzero().flatten().tolist()
