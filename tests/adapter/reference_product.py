"""What `llava_mocle.adapter.product.grouped` has to give, one sample and one expert at a time."""

import torch
import torch.nn.functional as F
from torch import Tensor

from llava_mocle.adapter.routing import Assignment


def reference(x: Tensor, experts_A: Tensor, experts_B: Tensor, assignment: Assignment | None, scaling: float) -> Tensor:
    """The definition, for the arguments of `grouped`."""
    outputs = []
    for b in range(x.shape[0]):
        if assignment is None:
            terms: list[tuple[Tensor | float, int]] = [(1.0, 0)]
        else:
            terms = [(w, int(e)) for w, e in zip(assignment.weight[b], assignment.slots[b], strict=True)]
        products = [weight * F.linear(F.linear(x[b], experts_A[e]), experts_B[e]) for weight, e in terms]
        outputs.append(scaling * torch.stack(products).sum(dim=0))
    return torch.stack(outputs)
