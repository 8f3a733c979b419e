"""How many samples and tokens an epoch has: counted and estimated from the rows, or as told."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import ASSISTANT, IMAGE_TOKEN, Turn, row_images, row_turns
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.errors import ConfigError
from llava_mocle.model.processing import has_tokenizer, load_tokenizer
from llava_mocle.recipe.keys import USUAL_LENGTH
from llava_mocle.recipe.recipe import Recipe

# Assumed where neither rows nor a number are given: text of a sample, its prompt's frame included.
TEXT_TOKENS = 128
# The usual rule of thumb for English text, where no tokenizer is at hand.
CHARACTERS_PER_TOKEN = 4
# Rows looked at for the estimate, over all datasets.
_ROWS_READ = 2000


@dataclass(frozen=True)
class Workload:
    """One epoch.

    Attributes:
        samples: rows x repeat; with weights, as many as there are rows.
        tokens: a sample's average, image tokens included.
        images: a sample's average.
        supervised: a sample's average of supervised tokens; all of its text where there are no rows to tell.
        origin: where the numbers come from, for people.
    """

    samples: int
    tokens: float
    images: float
    supervised: float
    origin: str


def find_workload(
    recipe: Recipe,
    image_tokens: int,
    *,
    samples: int | None = None,
    tokens: float | None = None,
    usual_length: int = USUAL_LENGTH,
) -> Workload:
    """The workload of a recipe.

    Args:
        image_tokens: what one image becomes.
        samples, tokens: samples of an epoch, and tokens of a sample; None: from the rows.
        usual_length: the longest sample in tokens where the recipe says nothing.

    Raises:
        ConfigError: a number below 1, or no `samples` and no rows to count.
        DataError: rows that are there are wrong.
    """
    for name, value in (("--samples", samples), ("--tokens-per-sample", tokens)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} is {value:g}, expected a number from 1")
    specs = recipe.data.dataset_specs()
    missing = [spec.data_path for spec in specs if not Path(spec.data_path).is_file()]
    if not missing and (samples is None or tokens is None):
        found = _from_rows(recipe, specs, image_tokens, recipe.data.model_max_length or usual_length)
        note = " (one replaced by a flag)" if samples or tokens else ""
        tokens = tokens or found.tokens
        supervised = min(found.supervised, tokens)
        return Workload(samples or found.samples, tokens, found.images, supervised, found.origin + note)
    if samples is None:
        raise ConfigError(
            f"{missing[0]} is not here ({len(missing)} of {len(specs)} files of rows are missing), so samples cannot "
            "be counted; say how many an epoch has (rows x repeat) with --samples N"
        )
    images = 1.0 if tokens is None or tokens > image_tokens else 0.0
    if tokens is not None:
        origin = f"as told; {images:.0f} image a sample and all text supervised are assumed"
        return Workload(samples, tokens, images, tokens - images * image_tokens, origin)
    origin = (
        f"samples as told; tokens assumed: one image of {image_tokens} and {TEXT_TOKENS} of text a sample, all of it "
        "supervised"
    )
    return Workload(samples, image_tokens + TEXT_TOKENS, images, TEXT_TOKENS, origin)


def _from_rows(recipe: Recipe, specs: Sequence[DatasetSpec], image_tokens: int, longest: int) -> Workload:
    mixture = Mixture.load(specs)
    folder = Path(recipe.model.model_name_or_path or "")
    tokenizer = load_tokenizer(folder) if recipe.model.model_name_or_path and has_tokenizer(folder) else None
    weights = tokens = images = supervised = 0.0
    read = 0
    for spec, rate in zip(specs, mixture.rates().tolist(), strict=True):
        rows = mixture.rows[spec.name]
        number = min(len(rows), max(_ROWS_READ // len(specs), 1))
        taken = [rows[index * len(rows) // number] for index in range(number)]
        read += number
        # Each dataset counts by all its rows, however many of them were read.
        weight = len(rows) * rate / number
        for row in taken:
            shown = len(row_images(row))
            turns = row_turns(row)
            answers = [turn for turn in turns if turn.role == ASSISTANT]
            length = min(_text_tokens(turns, tokenizer) + shown * image_tokens, longest)
            weights += weight
            images += weight * shown
            tokens += weight * length
            # An answer's end of turn is supervised as well.
            supervised += weight * min(_text_tokens(answers, tokenizer) + len(answers), length)
    by = "the model's tokenizer" if tokenizer else f"{CHARACTERS_PER_TOKEN} characters a token"
    origin = f"samples counted; tokens estimated from {read:,} rows by {by}"
    return Workload(len(mixture), tokens / weights, images / weights, supervised / weights, origin)


def _text_tokens(turns: Sequence[Turn], tokenizer: Any) -> float:
    """Tokens of turns without their template, which adds some ten a turn."""
    text = "\n".join(turn.text.replace(IMAGE_TOKEN, "") for turn in turns)
    return len(tokenizer(text).input_ids) if tokenizer else len(text) / CHARACTERS_PER_TOKEN
