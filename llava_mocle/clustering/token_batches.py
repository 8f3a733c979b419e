"""Many texts through a sentence-transformers model: each tokenized once, batches of about equally many tokens.

Texts of one length share a batch, so hardly a token is padding, and short texts come in large batches.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

# Tokens a batch, padding included.
CPU_TOKENS, GPU_TOKENS = 2048, 65536
# Texts that are tokenized together.
_TEXTS = 1024


def can_batch(model: Any) -> bool:
    """Whether a model turns text into embeddings as plain as `embed_many` expects: no prompt, no cut embedding."""
    return not model.prompts.get(model.default_prompt_name) and model.truncate_dim is None


def computes_bf16(device: str) -> bool:
    """Whether a device has arithmetic for bfloat16. Without it, bfloat16 is slower than float32."""
    import torch

    kind = device.split(":")[0]
    if kind == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Older releases of torch cannot tell.
    found: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if kind == "cpu" else {}
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


def embed_many(model: Any, texts: list[str], said: Callable[[int], Any] = lambda _: None) -> np.ndarray:
    """Return the (N, D) float32 embeddings of unit norm. Faster where texts of similar length stand together.

    On a CPU, as many batches are computed at once as there are threads, each by one of them.

    Args:
        said: called with the number of texts of each batch that is done.
    """
    import torch

    on_cpu = model.device.type == "cpu"
    budget = CPU_TOKENS if on_cpu else GPU_TOKENS
    result = None
    with _workers(torch.get_num_threads() if on_cpu else 1) as pool:
        for start in range(0, len(texts), _TEXTS):
            part = texts[start : start + _TEXTS]
            chosen = list(_batches(model.preprocess(part), len(part), budget))
            done = pool.map(lambda batch: _embed(model, batch), [batch for _, batch in chosen])
            for (rows, _), embeddings in zip(chosen, done, strict=True):
                if result is None:
                    result = np.empty((len(texts), embeddings.shape[1]), dtype=np.float32)
                result[start + rows] = embeddings
                said(len(rows))
    assert result is not None, "there were no texts"
    return result


def _embed(model: Any, batch: dict[str, Any]) -> np.ndarray:
    import torch

    with torch.inference_mode():
        given = {name: value.to(model.device) if torch.is_tensor(value) else value for name, value in batch.items()}
        # In float32 from here: bf16 would round the norm too.
        embeddings = model(given)["sentence_embedding"].float()
        return np.asarray(torch.nn.functional.normalize(embeddings, dim=1).cpu().numpy())


def _batches(features: Mapping[str, Any], number: int, budget: int) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Yield (which of the texts, their features without needless padding), the longest texts first."""
    mask = features.get("attention_mask")
    tables = [name for name, value in features.items() if getattr(value, "ndim", 0)]
    # A model with other features than tables of tokens gets its texts as it prepared them.
    if mask is None or any(features[name].shape != mask.shape for name in tables):
        yield np.arange(number), dict(features)
        return
    lengths = mask.sum(dim=1).numpy()
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < number:
        rows = order[start : start + max(budget // max(int(lengths[order[start]]), 1), 1)]
        kept = mask[rows].any(dim=0)
        yield rows, {name: value[rows][:, kept] if name in tables else value for name, value in features.items()}
        start += len(rows)


@contextmanager
def _workers(number: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads, each of which computes alone."""
    import torch

    before = torch.get_num_threads()
    if number > 1:
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(number) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)
