"""Which experts the rows of each dataset choose, for routers that look at the row itself: measured in forwards."""

from typing import Any

import torch

from llava_mocle.analysis.run.dataset_routing import DatasetExperts
from llava_mocle.analysis.training_point import TrainingPoint


@torch.no_grad()
def measure_experts(point: TrainingPoint, rows: int, trained: int, seed: int = 0) -> list[DatasetExperts]:
    """The share of each dataset's tokens (token router) or rows (sentence router) that each expert gets at each site.

    Args:
        point: a model whose router is `token` or `sentence`. It is in evaluation mode afterwards.
        rows: the most rows of a dataset, drawn by chance.
        trained: the first so many datasets are those that the run was trained on.
        seed: of the drawing.

    Raises:
        DataError: a row or an image cannot be read.
    """
    model: Any = point.model.eval()
    config = model.peft_config["default"]
    size = point.args.per_device_train_batch_size
    drawn = point.draw(rows, seed)
    batches = [
        (dataset, samples[first : first + size])
        for dataset, samples in enumerate(drawn)
        for first in range(0, len(samples), size)
    ]
    sums = torch.zeros(len(drawn), len(model.base_model.sites), config.num_experts, dtype=torch.float64)
    for dataset, batch in point.load(batches, "batch"):
        point.loss_of(model, batch)
        means = model.base_model.last_routing().means(config.num_experts)
        shares = torch.stack([means[f"expert_{expert}"] for expert in range(config.num_experts)], dim=-1)  # (S, E)
        # A forward gives means over its tokens without padding, or over its rows.
        counted = int((batch["attention_mask"] != 0).sum()) if config.router == "token" else len(batch["input_ids"])
        sums[dataset] += counted * shares.double().cpu()
    shares_of = (sums / sums.sum(dim=-1, keepdim=True)).numpy()
    return [
        DatasetExperts(name, dataset < trained, len(samples), shares_of[dataset])
        for dataset, (name, samples) in enumerate(zip(point.names, drawn, strict=True))
    ]
