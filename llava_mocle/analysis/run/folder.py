"""What a run's folder says of its routing: gates, clusters, datasets, instructions. No base model is loaded."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from llava_mocle.adapter.config import PEFT_TYPE, MocleConfig
from llava_mocle.adapter.saved_gates import saved_gates
from llava_mocle.analysis.loss_curves import History, read_log_history
from llava_mocle.clustering.assign import check_table, count_by_dataset, read_table, route_texts
from llava_mocle.clustering.cluster_files import ASSIGNMENTS_FILE
from llava_mocle.clustering.cluster_model import ClusterModel
from llava_mocle.clustering.embedding_cache import default_cache_dir
from llava_mocle.data.mixture import DatasetSpec
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import CheckpointError, ConfigError, DataError
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.suite import ANSWERS_FOLDER
from llava_mocle.io.jsonl import read_json
from llava_mocle.io.paths import looked_for, user_path
from llava_mocle.model.adapters import load_cluster_model
from llava_mocle.model.folders import ADAPTER_CONFIG, RECIPE_FILE, detect_kind, find_folder
from llava_mocle.recipe.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class DatasetClusters:
    """How many rows of a dataset each cluster has.

    Attributes:
        name: of the dataset.
        counts: (K,) int64.
        trained: whether the run was trained on this dataset (held-in), or not (held-out).
        counted: which of its rows were counted.
    """

    name: str
    counts: np.ndarray
    trained: bool = True
    counted: str = "training rows"

    @property
    def shares(self) -> np.ndarray:
        """(K,) float64: the same as shares of the dataset."""
        return self.counts / max(int(self.counts.sum()), 1)


class RunFolder:
    """A run's output folder, or one of its checkpoints.

    Args:
        path: the folder; it holds adapter_config.json.
        encoder: the sentence encoder's folder, in place of the one recorded.

    Raises:
        CheckpointError: there is no such folder, or it holds no adapter.
    """

    def __init__(self, path: str | Path, encoder: str | None = None) -> None:
        self.path = find_folder(path, "a run's folder", download=False)
        if (kind := detect_kind(self.path)) != "adapter":
            raise CheckpointError(
                f"{self.path}: is a folder of kind {kind!r}; give the folder of a run of stage 2, or one of its "
                "checkpoints"
            )
        self._encoder = encoder

    @cached_property
    def config(self) -> MocleConfig:
        """The adapter's configuration.

        Raises:
            ConfigError: the folder holds a LoRA of PEFT's, not an adapter of ours.
        """
        if read_json(self.path / ADAPTER_CONFIG).get("peft_type") != PEFT_TYPE:
            raise ConfigError(f"{self.path}: is a plain LoRA of PEFT's: it has one expert, and no gates")
        return MocleConfig.from_pretrained(str(self.path))

    @cached_property
    def gates(self) -> np.ndarray:
        """(K, S, E) float64: the gates of each cluster (or dataset) at each site, without noise.

        Raises:
            ConfigError: the adapter has no gates that belong to clusters or datasets.
        """
        return saved_gates(self.path, self.config).double().numpy()

    @property
    def sites(self) -> list[str]:
        """The names of the S adapted linears."""
        return list(self.config.sites or [])

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe that the run was trained with.

        Raises:
            CheckpointError: the folder has none.
        """
        path = self.path / RECIPE_FILE
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file, so the run's datasets are not known")
        return load_recipe(path)

    @cached_property
    def specs(self) -> list[DatasetSpec]:
        """The datasets that the run was trained on."""
        return self.recipe.data.dataset_specs()

    @cached_property
    def cluster_model(self) -> ClusterModel:
        """The cluster model in the folder; it looks the recipe's rows up where their table is still there.

        Raises:
            ConfigError: the run has none.
        """
        model = load_cluster_model(self.path, self._encoder)
        if model is None:
            raise ConfigError(f"{self.path}: has no cluster model (no folder clusters/), so no row of it has a cluster")
        if self._table is not None:
            model.knows(self._table)
        return model

    @cached_property
    def cache_dir(self) -> Path:
        """Where embeddings are kept."""
        return Path(self.recipe.cluster.cluster_cache_dir or default_cache_dir())

    @cached_property
    def _table(self) -> Path | None:
        """The assignment table of the training rows; None where it is not here any more."""
        keys = self.recipe.cluster
        named = keys.cluster_assignments or (keys.cluster_model and Path(keys.cluster_model) / ASSIGNMENTS_FILE)
        return Path(named) if named and Path(named).is_file() else None

    @property
    def _by_dataset(self) -> bool:
        return self.config.router == "dataset"

    def dataset_clusters(self) -> list[DatasetClusters]:
        """Each dataset of the recipe: how many of its rows each cluster has, for a run that has clusters.

        Raises:
            ConfigError: the run has no cluster model.
            DataError: neither the assignment table of its rows nor one of its held-out rows is here.
            ClusterModelError: the table is another clustering's.
        """
        model = self.cluster_model
        counted = "training rows"
        if self._table is not None:
            check_table(self._table, [spec.name for spec in self.specs], model)
            names, counts = count_by_dataset(read_table(self._table))
        elif model.held_out is not None:
            counted = "held-out rows"
            names, counts = count_by_dataset(model.held_out)
        else:
            raise DataError(
                f"{self.path}: the assignment table of its rows ({ASSIGNMENTS_FILE} in the recipe's cluster_model "
                f"{self.recipe.cluster.cluster_model}) is not here; `llava-mocle cluster --recipe "
                f"{self.path / RECIPE_FILE}` writes it"
            )
        column = dict(zip(names, counts.T, strict=True))
        return [
            DatasetClusters(spec.name, column[spec.name], counted=counted) for spec in self.specs if spec.name in column
        ]

    def dataset_gates(self) -> list[DatasetClusters]:
        """As `dataset_clusters`, of what the gates see: under the dataset router every dataset has gates of its own."""
        if not self._by_dataset:
            return self.dataset_clusters()
        own = np.eye(len(self.specs), dtype=np.int64)
        return [
            DatasetClusters(spec.name, own[place] * len(read_rows(spec.data_path)))
            for place, spec in enumerate(self.specs)
        ]

    def held_out_clusters(self, sources: Sequence[str]) -> list[DatasetClusters]:
        """The same of datasets that the run was not trained on.

        Args:
            sources: files of LLaVA rows, or folders that `llava-mocle eval` wrote for this run; `NAME=FILE` names a
                file's dataset, which is otherwise called as the file.

        Raises:
            DataError: a source is neither, or was answered by a run of other clusters.
            AssetError: the encoder is needed for a file of rows, and is not here.
        """
        if sources and self._by_dataset:
            raise ConfigError(f"{self.path}: routes by dataset, and a held-out dataset has no gates: drop --held-out")
        found: dict[str, np.ndarray] = {}
        for source in sources:
            folder = Path(source) / ANSWERS_FOLDER
            if folder.is_dir():
                parts = {path.stem: self._answered(path) for path in sorted(folder.glob("*.jsonl"))}
            else:
                name, path = self._rows_of(source)
                (texts,) = route_texts({name: read_rows(path)}, self.cluster_model.rule).values()
                parts = {name: self.cluster_model.assign(texts, cache_dir=self.cache_dir)[0]}
            for name, ids in parts.items():
                found[self._new_name(name, found)] = np.bincount(ids, minlength=self.cluster_model.num_clusters)
        return [DatasetClusters(name, counts, trained=False, counted="rows") for name, counts in found.items()]

    def held_out_files(self, sources: Sequence[str]) -> dict[str, Path]:
        """Dataset -> its file of rows, for a router that has to see rows. The sources are as in `held_out_clusters`.

        Raises:
            ConfigError: a source is a folder of answers, which say nothing to such a router.
            DataError: a source is no file.
        """
        found: dict[str, Path] = {}
        for source in sources:
            if (Path(source) / ANSWERS_FOLDER).is_dir():
                raise ConfigError(
                    f"--held-out {source}: is a folder of answers, but router {self.config.router!r} has to see the "
                    "rows themselves; give a file of LLaVA rows ([NAME=]FILE)"
                )
            name, path = self._rows_of(source)
            found[self._new_name(name, found)] = path
        return found

    def _new_name(self, name: str, taken: Container[str]) -> str:
        """The name of a held-out dataset in the figures, unlike those of the run and those that are taken."""
        name = f"{name} (test)" if name in {spec.name for spec in self.specs} else name
        if name in taken:
            raise ConfigError(f"--held-out: two datasets are named {name!r}; name them: NAME=FILE")
        return name

    def _rows_of(self, source: str) -> tuple[str, Path]:
        """The name and the file of a source that is one."""
        name, _, file = source.rpartition("=")
        path = Path(source if Path(source).is_file() else user_path(file))
        if not path.is_file():
            raise DataError(
                f"--held-out {source}: no such file of rows, and no folder of `llava-mocle eval`{looked_for(source)}"
            )
        return name or path.stem, path

    def _answered(self, path: Path) -> np.ndarray:
        last = self.cluster_model.num_clusters - 1
        ids = [answer["metadata"].get("cluster_id") for answer in read_answers(path)]
        if not ids or any(not isinstance(value, int) or not 0 <= value <= last for value in ids):
            raise DataError(
                f"{path}: its answers do not name a cluster 0 to {last} each; give the folder that `llava-mocle eval "
                f"--model {self.path}` wrote"
            )
        return np.array(ids, dtype=np.int64)

    @cached_property
    def instructions(self) -> dict[str, dict[str, int]]:
        """Dataset -> distinct instruction of its training rows -> how many rows have it.

        Raises:
            DataError: a file of rows is not here, or has a wrong row.
        """
        found: dict[str, dict[str, int]] = {}
        for spec in self.specs:
            (texts,) = route_texts({spec.name: read_rows(spec.data_path)}, self.cluster_model.rule).values()
            counts: dict[str, int] = {}
            for text in texts:
                counts[text] = counts.get(text, 0) + 1
            found[spec.name] = counts
        return found

    def log(self) -> History:
        """What training logged, step by step.

        Raises:
            DataError: the folder has no trainer_state.json.
        """
        return read_log_history(self.path)


def middle_site(sites: Sequence[str]) -> str:
    """The site in the middle of the model: what one figure shows where nobody asks for another."""
    return sites[len(sites) // 2]


def find_site(sites: Sequence[str], wanted: str | None) -> int:
    """The place of a site, by its name or the end of its name; the middle one for None.

    Raises:
        ConfigError: no site, or several, have this name.
    """
    if wanted is None:
        return sites.index(middle_site(sites))
    places = [place for place, name in enumerate(sites) if name == wanted or name.endswith(f".{wanted}")]
    if len(places) != 1:
        found = "no site is" if not places else f"{len(places)} sites are"
        raise ConfigError(
            f"--site {wanted}: {found} named so; name one by its whole name, such as {middle_site(sites)}"
        )
    return places[0]


def site_groups(sites: Sequence[str]) -> Mapping[str, list[int]]:
    """The linear's own name, such as `up_proj` -> the places of its sites, in the order of depth."""
    groups: dict[str, list[int]] = {}
    for place, name in enumerate(sites):
        groups.setdefault(name.rpartition(".")[2], []).append(place)
    return groups
