"""The rows that `llava-mocle cluster` looks at: those of a recipe, or of files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import why_missing
from llava_mocle.recipe.keys import ClusterArguments

if TYPE_CHECKING:
    from llava_mocle.clustering.instruction import InstructionRule

Rows = Mapping[str, Sequence[dict[str, Any]]]


@dataclass(frozen=True)
class ClusterRows:
    """What is clustered, and how.

    Attributes:
        rows: dataset -> its rows.
        held_out: dataset -> its held-out rows, which are only assigned.
        rates: dataset -> how often training meets each of its rows.
        settings: the recipe's, or the defaults.
    """

    rows: Rows
    held_out: Rows
    rates: Mapping[str, float]
    settings: ClusterArguments

    def instructions(self, rule: "InstructionRule") -> tuple[list[str], list[float]]:
        """The text of every row that its cluster follows from, and how often training meets the row."""
        from llava_mocle.clustering.assign import route_texts

        texts = route_texts(self.rows, rule)
        weights = [self.rates[name] for name, part in texts.items() for _ in part]
        return [text for part in texts.values() for text in part], weights


def cluster_rows(recipe: str | None, files: Sequence[str] | None) -> ClusterRows:
    """The rows of `--recipe` or of `--rows`.

    Raises:
        ConfigError: both or none are given, the recipe has no dataset, or two files have one name.
        DataError: a file of rows is wrong.
    """
    if recipe and files:
        raise ConfigError("both --recipe and --rows were given: drop one")
    if recipe:
        return _of_recipe(recipe)
    if not files:
        raise ConfigError("nothing to cluster: give --recipe YAML or --rows FILE... (`llava-mocle cluster --help`)")
    return _of_files(files)


def _of_recipe(path: str) -> ClusterRows:
    from llava_mocle.data.mixture import Mixture
    from llava_mocle.data.rows import read_rows
    from llava_mocle.recipe.recipe import load_recipe

    recipe = load_recipe(path)
    specs = recipe.data.dataset_specs()
    if not specs:
        raise ConfigError(f"{path}: names no dataset to cluster; fill its `datasets`")
    rows = {spec.name: read_rows(spec.data_path) for spec in specs}
    rates = dict(zip(rows, Mixture(specs, rows).rates().tolist(), strict=True))
    # Training says what is wrong with held-out rows that are not there; clusters can be made without them.
    held_out = {
        spec.name: read_rows(spec.eval_data_path)
        for spec in specs
        if spec.eval_data_path and why_missing(spec.eval_data_path) is None
    }
    return ClusterRows(rows, held_out, rates, recipe.cluster)


def _of_files(names: Sequence[str]) -> ClusterRows:
    """Each file is a dataset of its own, and all rows have the same weight."""
    from llava_mocle.data.rows import read_rows

    files: dict[str, Path] = {}
    for name in map(Path, names):
        if name.stem in files:
            raise ConfigError(
                f"--rows: {files[name.stem]} and {name} would both be dataset {name.stem!r}: rename one, "
                "or use a recipe"
            )
        files[name.stem] = name
    rows = {name: read_rows(path) for name, path in files.items()}
    return ClusterRows(rows, {}, dict.fromkeys(files, 1.0), ClusterArguments())
