"""The check at the end of an export: what was written is loaded again, and must answer as the trained model does.

Compared are logits of two questions, one of them about an image. What counts is an adapter's effect, the difference
that it makes to the base's logits: what passes over an adapter gives no error, and answers as the base.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_mocle.adapter.mixture import CLUSTER_WEIGHTS
from llava_mocle.data.conversation import HUMAN, Turn, marked_prompt, place_images
from llava_mocle.errors import CheckpointError
from llava_mocle.export.bundle import ADAPTERS_FOLDER, BASE_FOLDER, BASE_NAME, MERGED_FOLDER, UNIVERSAL_NAME
from llava_mocle.families.llava import LlavaFamily
from llava_mocle.io.progress import progress
from llava_mocle.model.adapters import attach_adapter
from llava_mocle.model.weights import load_whole

_QUESTIONS = (("What is shown in this picture?", 1), ("Answer in one word: which colour has the sky?", 0))
# Positions of a question whose logits are compared, from its end.
_POSITIONS = 4
_IMAGE_SIDES = (96, 64)
# An adapter whose effect is a smaller part of the base's logits changes nothing.
_NO_EFFECT = 1e-6


@dataclass(frozen=True)
class Tolerances:
    """How far a bundle may be off.

    Attributes:
        base: of the base's logits, in parts of their norm.
        effect: of an adapter's effect, in parts of its norm. 1 is as wrong as no adapter at all.
    """

    base: float
    effect: float

    @classmethod
    def of(cls, stored: torch.dtype, computed: torch.dtype, truncated: bool) -> "Tolerances":
        """Those of weights stored in one dtype and computed in another.

        In float32, sums are rounded by 1e-6 of the logits, of which an effect may be a hundredth. A weight in bfloat16
        is rounded by 0.4 % at most, twice in a pair. If all is computed in 16 bit, that rounding comes on top at every
        layer. A truncated adapter must at least be nearer to the whole one than to none.
        """
        if computed != torch.float32:
            return cls(0.05, 1.0 if truncated else 0.5)
        if stored != torch.float32:
            return cls(0.05, 1.0 if truncated else 0.1)
        return cls(1e-4, 1.0 if truncated else 0.01)


@torch.inference_mode()
def expected_logits(
    model: Any, batches: Sequence[Mapping[str, Tensor]], routes: Mapping[str, int | None]
) -> dict[str, Tensor]:
    """The trained model's own logits (P, V) of the questions, by the names of what a bundle holds.

    Args:
        model: the `PeftModel`.
        batches: `questions_of` it.
        routes: adapter -> its cluster or dataset; None for the universal expert alone.
    """
    config = model.peft_config[model.active_adapter]
    name_of_ids = "cluster_ids" if config.router == "cluster" else "dataset_ids"
    found = {}
    for name, route in routes.items():
        inputs = {name_of_ids: torch.tensor([[0]] if route is None else [route])}
        if route is None:  # no cluster counts, so the universal expert gets everything
            inputs[CLUSTER_WEIGHTS] = torch.tensor([[0.0]])
        found[name] = _logits(model, batches, inputs)
    with _without_experts(model):
        found[BASE_NAME] = _logits(model, batches, {name_of_ids: torch.tensor([0])})
    return found


def questions_of(loaded: Any) -> list[dict[str, Tensor]]:
    """The questions as inputs of the model, one batch of one row each."""
    encoder = loaded.encoder()
    pad = loaded.tokenizer.pad_token_id
    collate = encoder.collator(pad_token_id=0 if pad is None else pad, left=True)
    pixels = np.random.default_rng(0).integers(0, 256, (*_IMAGE_SIDES, 3), dtype=np.uint8)
    batches = []
    for text, images in _QUESTIONS:
        turns = [Turn(HUMAN, place_images(marked_prompt(text, images)))]
        batches.append(collate([encoder.prompt(turns, [Image.fromarray(pixels)] * images)]))
    return batches


def _logits(model: Any, batches: Sequence[Mapping[str, Tensor]], routing: Mapping[str, Tensor]) -> Tensor:
    """(P, V): those of the last positions of every question."""
    found = []
    for batch in batches:
        dtypes = {name: model.dtype for name, value in batch.items() if value.is_floating_point()}
        inputs = {name: value.to(dtypes.get(name)) for name, value in batch.items()}
        found.append(model(**inputs, **routing).logits[0, -_POSITIONS:].float())
    return torch.cat(found)


@contextmanager
def _without_experts(model: Any) -> Iterator[None]:
    """The model with its trained modules and without its experts: a bundle's base. (PEFT switches both off.)"""
    layers = [model.base_model.model.get_submodule(site) for site in model.base_model.sites]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


@dataclass(frozen=True)
class Difference:
    """How far a part of a bundle is off, in parts of the effect (of the logits, for the base); and how large that is.

    Attributes:
        error: 0 is exact.
        effect: norm of the effect over the norm of the base's logits; 1 for the base.
    """

    error: float
    effect: float


@torch.inference_mode()
def check_bundle(
    folder: Path,
    batches: Sequence[Mapping[str, Tensor]],
    expected: Mapping[str, Tensor],
    merged: bool,
    tolerances: Tolerances,
    dtype: torch.dtype,
) -> dict[str, Difference]:
    """Load a bundle's models and compare their logits with the trained model's.

    Args:
        batches: `questions_of` the trained model.
        expected: `expected_logits` of it.
        merged: whether the bundle has whole models in place of adapters.
        dtype: to compute in.

    Returns:
        What was found, by the names in `expected`.

    Raises:
        CheckpointError: weights are missing or left over, logits are off, or an adapter changes nothing.
    """
    names = [name for name in expected if name != BASE_NAME]
    found: dict[str, Difference] = {}
    with progress(len(names), "check: load and ask each again", "model") as bar:
        base = expected[BASE_NAME]
        if not merged:
            model = _load(folder / BASE_FOLDER, dtype)
            base = _logits(model, batches, {})
            found[BASE_NAME] = Difference(_part(base - expected[BASE_NAME], expected[BASE_NAME]), 1.0)
        for name in names:
            if merged:
                adapted = _load(folder / MERGED_FOLDER / name, dtype)
            else:
                adapted = attach_adapter(model, folder / ADAPTERS_FOLDER / name, trainable=False)
            logits = _logits(adapted, batches, {})
            if not merged:
                model = adapted.unload()
            del adapted  # not to be in memory beside the next
            effect = expected[name] - expected[BASE_NAME]
            found[name] = Difference(_part((logits - base) - effect, effect), _part(effect, expected[BASE_NAME]))
            bar.update(1)
    _refuse(found, tolerances)
    return found


def _load(folder: Path, dtype: torch.dtype) -> Any:
    model = load_whole(
        LlavaForConditionalGeneration,
        folder,
        refuse_unexpected=True,
        ignore=LlavaFamily.derived_weights,
        dtype=dtype,
        use_safetensors=True,
    )
    return model.requires_grad_(False).eval()


def _part(difference: Tensor, whole: Tensor) -> float:
    norm = float(whole.double().norm())
    return float(difference.double().norm()) / norm if norm else float("inf")


def _refuse(found: Mapping[str, Difference], tolerances: Tolerances) -> None:
    for name, difference in found.items():
        if difference.effect < _NO_EFFECT:
            remedy = "leave it out (--clusters), or train longer" if name != UNIVERSAL_NAME else "train longer"
            raise CheckpointError(
                f"self-check: {name} changes the base's logits by {difference.effect:.1e} of their size, so it does "
                f"nothing; {remedy}."
            )
        allowed = tolerances.base if name == BASE_NAME else tolerances.effect
        if not difference.error < allowed:
            what = "logits are" if name == BASE_NAME else "effect on the logits is"
            raise CheckpointError(
                f"self-check: the {what} off by {difference.error:.1e} of its size for {name}, and at most "
                f"{allowed:g} is allowed; nothing was written. Choose --dtype float32 or a larger --rank; if neither "
                "helps, this is a fault of the export."
            )
