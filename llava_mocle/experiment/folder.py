"""The folder of a run: what it was made of, how far it is, and what says that it is done.

recipe.yaml       the recipe that it trains
run.json          what it is made of; written first
log.txt           all commands, with what they printed
train/            what `llava-mocle train` wrote
eval/<split>/     what `llava-mocle eval` wrote
done.json         time, memory, parameters, versions and the splits that were asked; written last
"""

import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any

from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import safe_open

from llava_mocle.data.rows import rows_digest
from llava_mocle.evaluation.scores.provenance import versions
from llava_mocle.evaluation.scores.results import write_json
from llava_mocle.experiment.grid import Grid, Run, write_yaml
from llava_mocle.io.jsonl import read_json
from llava_mocle.recipe.comparison import differences
from llava_mocle.recipe.recipe import recipe_of
from llava_mocle.training.checkpoints.manifest import FINISHED_FILE, read_manifest
from llava_mocle.training.setup.parameter_groups import group_of

RECIPE, MADE_OF, DONE, LOG = "recipe.yaml", "run.json", "done.json", "log.txt"
# Beside a split's answers: what they are answers to.
ASKED = "asked.json"


class State(StrEnum):
    """How far a run is.

    UNASKED: done, but for splits that are asked for newly; WITHOUT_WEIGHTS: the same, but its weights were removed;
    CHANGED: it was made of something else than is asked for.
    """

    NEW = "new"
    STARTED = "started"
    DONE = "done"
    UNASKED = "a split is missing"
    CHANGED = "changed"
    WITHOUT_WEIGHTS = "a split is missing, and the weights"


# Weights of a result or a checkpoint; all else that training wrote is kept.
_WEIGHTS = ("*.safetensors", "*.bin")


class RunFolder:
    """The folder of one run.

    Attributes:
        made_of: the recipe but for its output folder, and digests of its rows: what decides what is trained.
        asked: split -> digests of its rows, and how it is asked.
    """

    def __init__(self, grid: Grid, run: Run) -> None:
        self.grid, self.run = grid, run
        self.path = grid.root / "runs" / run.name
        recipe = {key: value for key, value in run.recipe.items() if key != "output_dir"}
        rows = {spec.name: _digest(spec.data_path) for spec in run.datasets}
        self.made_of: dict[str, Any] = _as_json({"recipe": recipe, "rows": rows})
        self.asked = {split: self._asked(split) for split in run.splits}

    @property
    def train(self) -> Path:
        """The folder of the trained model."""
        return self.path / "train"

    def eval(self, split: str) -> Path:
        """The folder of a split's answers and scores."""
        return self.path / "eval" / split

    @property
    def lock(self) -> Path:
        """The file that the process which works on the run holds; it is beside the folder."""
        return self.path.with_name(f".{self.path.name}.lock")

    def domains(self, split: str) -> list[str]:
        """The run's domains that a split has rows of."""
        return [spec.name for spec in self.run.datasets if self.grid.rows_of(split, spec.name)]

    def state(self) -> State:
        """How far the run is, by what is on the disk."""
        if not (self.path / MADE_OF).is_file():
            return State.NEW
        if self.differences():
            return State.CHANGED
        if self.done() is None:
            return State.STARTED
        if not self.unasked():
            return State.DONE
        return State.UNASKED if self.has_weights() else State.WITHOUT_WEIGHTS

    def differences(self) -> list[str]:
        """What decides what is trained, and is another now than when the run was begun; each with both values.

        Keys that say how to log or save may change, and so may keys that are written out with their default.
        """
        then, now = read_json(self.path / MADE_OF), self.made_of
        if then == now:
            return []
        changed = differences(*(recipe_of(either["recipe"]).as_dict() for either in (then, now)))
        return changed + (["the rows"] if then["rows"] != now["rows"] else [])

    def done(self) -> dict[str, Any] | None:
        """What the marker of a finished run says; None: it is not finished."""
        path = self.path / DONE
        return read_json(path) if path.is_file() else None

    def unasked(self) -> list[str]:
        """The splits that have no scores, or scores of other rows."""
        done = self.done() or {"splits": {}}
        return [split for split in self.run.splits if done["splits"].get(split) != self.asked[split]]

    def begin(self, overwrite: bool) -> None:
        """Make the folder with its recipe; with `overwrite`, after removing what another recipe left."""
        if overwrite and self.state() in (State.CHANGED, State.WITHOUT_WEIGHTS):
            shutil.rmtree(self.path)
        write_yaml(self.path / RECIPE, self._placed(self.run.recipe))
        for split in self.run.splits:
            write_yaml(self.path / f"{split}.yaml", self._split_recipe(split))
            self._drop_other_answers(split)
        write_json(self.path / MADE_OF, self.made_of)

    def _drop_other_answers(self, split: str) -> None:
        """Remove the answers to other questions, or given under other settings, than are asked now."""
        asked = self.eval(split) / ASKED
        if asked.is_file() and read_json(asked) != self.asked[split]:
            shutil.rmtree(self.eval(split))
        write_json(asked, self.asked[split])

    def is_trained(self) -> bool:
        """Whether training has written its result whole."""
        return bool(read_manifest(self.train, FINISHED_FILE))

    def has_weights(self) -> bool:
        """Whether the trained model can still be loaded."""
        return any(path for pattern in _WEIGHTS for path in self.train.glob(pattern))

    def finish(self, seconds: Mapping[str, float], peak_mib: Mapping[str, float]) -> None:
        """Write the marker, and remove the checkpoints, which nothing goes on from any more.

        Args:
            seconds, peak_mib: of each step that this process ran; those of others are kept.
        """
        before = self.done() or {}
        facts = {
            "splits": before.get("splits", {}) | self.asked,
            "seconds": before.get("seconds", {}) | dict(seconds),
            "peak_mib": before.get("peak_mib", {}) | dict(peak_mib),
            "parameters": self.parameters(),
            "versions": versions(),
        }
        for checkpoint in self.train.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        write_json(self.path / DONE, facts)

    def parameters(self) -> dict[str, int]:
        """Number of trained values: of the adapter's experts, of its router, and of what is trained beside it."""
        counts = {"experts": 0, "router": 0, "projector": 0}
        with safe_open(self.train / SAFETENSORS_WEIGHTS_NAME, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118, it is no mapping
                counts[group_of(name)] += math.prod(weights.get_slice(name).get_shape())
        return counts

    def remove_weights(self) -> None:
        """Remove the weights of a finished run; its scores, answers and log stay."""
        for pattern in _WEIGHTS:
            for path in self.train.glob(pattern):
                path.unlink()

    def _placed(self, recipe: Mapping[str, Any]) -> dict[str, Any]:
        """A recipe with the experiment's folder before the paths that lie in it."""
        placed = dict(recipe)
        for key in ("output_dir", "cluster_model"):
            if key in placed:
                placed[key] = str(self.grid.root / placed[key])
        return placed

    def _split_recipe(self, split: str) -> dict[str, Any]:
        """What `llava-mocle eval --recipe` reads a split's rows from."""
        wanted = self.domains(split)
        entries = [
            {key: value for key, value in asdict(spec).items() if value not in (None, "")}
            | {"eval_data_path": self.grid.rows_of(split, spec.name)}
            for spec in self.run.datasets
            if spec.name in wanted
        ]
        return {"datasets": entries}

    def _asked(self, split: str) -> dict[str, Any]:
        rows = {name: _digest(str(self.grid.rows_of(split, name))) for name in self.domains(split)}
        return _as_json({"rows": rows, **asdict(self.grid.design.eval)})


def _digest(path: str) -> str:
    status = Path(path).stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns)


@cache
def _digest_of(path: str, size: int, changed: int) -> str:
    return rows_digest(Path(path))


def _as_json(value: Any) -> Any:
    """A value as JSON gives it back, so that it equals what was read from a file."""
    return json.loads(json.dumps(value, default=str))
