"""The artifact: centroids, the encoder they live in, and the rule that says which text to embed.

Same text, same id, forever: what `assign` returns is always the exact path's answer (see `deciding`). That holds while
the fast path is off by at most `FP32_ERROR`, which is checked on probe texts, once for each loaded cluster model.
"""

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from llava_mocle.clustering import cluster_files, kmeans
from llava_mocle.clustering.assign import find_stored, read_stored, read_table
from llava_mocle.clustering.cluster_config import ClusterConfig, Example, fingerprint, fit_request, weigh
from llava_mocle.clustering.cluster_files import ASSIGNMENTS_FILE
from llava_mocle.clustering.deciding import decide
from llava_mocle.clustering.encoder import FP32_ERROR, Encoder, SentenceEncoder, recorded_encoder
from llava_mocle.clustering.encoder_files import DEFAULT_ENCODER
from llava_mocle.clustering.instruction import InstructionRule, check_texts
from llava_mocle.clustering.nearest import second_nearest
from llava_mocle.clustering.training_distances import FIELD, nearest_examples, quantile, quantiles
from llava_mocle.errors import AssetError, ClusterModelError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

logger = logging.getLogger(__name__)

# Case, accents, other scripts, emoji, and a text longer than any encoder's window.
PROBE_TEXTS = (
    "What is the length of side AB in the given figure?",
    "Où se trouve l'anomalie ? 图中有几只猫？ 🐈",
    "describe every object in this picture, one after another, and say where it stands. " * 60,
)


class ClusterModel:
    """K clusters of instructions.

    Attributes:
        centroids: (K, D) float32, in the space of unit-norm embeddings (centroids themselves are not normalised).
        counts: (K,) float64, how many fitted instructions each cluster holds (rows times how often they are met).
        config: what config.json holds.
    """

    def __init__(
        self,
        centroids: np.ndarray,
        counts: np.ndarray,
        config: ClusterConfig,
        probe: np.ndarray,
        examples: Sequence[Sequence[Example]],
        encoder: Encoder | None = None,
        folder: Path | None = None,
        device: "str | torch.device | None" = None,
    ) -> None:
        self.centroids = np.asarray(centroids, dtype=np.float32)
        self.counts = np.asarray(counts, dtype=np.float64)
        self.config = config
        self._probe = np.asarray(probe, dtype=np.float32)
        self._examples = [list(group) for group in examples]
        self._given_encoder = encoder
        self._folder = folder
        self._device = device
        self._tables = [] if folder is None else [folder / cluster_files.HELD_OUT_FILE, folder / ASSIGNMENTS_FILE]

    @property
    def num_clusters(self) -> int:
        """K."""
        return self.config.num_clusters

    @property
    def dim(self) -> int:
        """D."""
        return self.config.dim

    @property
    def fingerprint(self) -> str:
        """Identifies the clustering: encoder weights, rule, centroids."""
        return self.config.fingerprint

    @cached_property
    def rule(self) -> InstructionRule:
        """Which text of a row or of a request to give to `assign`."""
        return InstructionRule(self.config.instruction_turns, self.config.instruction_rule_version)

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        num_clusters: int,
        *,
        weights: Sequence[float] | None = None,
        seed: int = 0,
        n_init: int = 10,
        rule: InstructionRule | None = None,
        encoder: Encoder | str | Path = DEFAULT_ENCODER,
        cache_dir: str | Path | None = None,
        progress: bool = True,
        num_examples: int = 20,
    ) -> "ClusterModel":
        """Cluster instructions. The order of `texts` does not matter, repetitions do: they are weights.

        Args:
            texts: one for each row, as `instruction_text` gives them.
            weights: (N,) how often each row counts (how often training meets it); default 1.

        Raises:
            ConfigError: K is larger than the number of distinct instructions.
            DataError: as `weigh`.
        """
        rule = rule or InstructionRule()
        encoder = SentenceEncoder(encoder) if isinstance(encoder, (str, Path)) else encoder
        weight_of = weigh(texts, weights)
        distinct = list(weight_of)
        mass = np.array(list(weight_of.values()))
        kmeans.check_enough(num_clusters, len(distinct))
        if len(distinct) > kmeans.SMALL:
            embeddings, error = encoder.encode_rough(distinct, cache_dir=cache_dir, progress=progress)
            fast_probe = encoder.encode(PROBE_TEXTS, cache_dir=cache_dir, progress=False)
        else:
            embedded = encoder.encode([*distinct, *PROBE_TEXTS], cache_dir=cache_dir, progress=progress)
            embeddings, fast_probe, error = embedded[: len(distinct)], embedded[len(distinct) :], FP32_ERROR
        probe = encoder.encode(PROBE_TEXTS, cache_dir=cache_dir, progress=False, exact=True).astype(np.float32)
        result = kmeans.fit(embeddings, num_clusters, seed=seed, n_init=n_init, weights=mass, progress=progress)
        config = ClusterConfig(
            encoder=encoder.name,
            encoder_weight_hash=encoder.weight_hash,
            dim=embeddings.shape[1],
            num_clusters=num_clusters,
            seed=seed,
            n_init=n_init,
            instruction_turns=rule.turns,
            instruction_rule_version=rule.version,
        )
        config.fit = {
            "request": fit_request(weight_of, num_clusters, seed, n_init, rule, encoder.weight_hash),
            "num_rows": len(texts),
            "num_instructions": float(mass.sum()),
            "num_distinct": len(distinct),
            "inertia": result.inertia,
            "iterations": result.iterations,
        }
        centroids = result.centroids.astype(np.float32)
        config.fingerprint = fingerprint(config, centroids)
        model = cls(centroids, result.counts, config, probe, [], encoder)
        model._check_drift(encoder, fast_probe)
        model._checked_encoder = encoder
        ids, distances = decide(encoder, centroids, distinct, embeddings, error, cache_dir, progress)
        model.counts = np.bincount(ids, weights=mass, minlength=num_clusters).astype(np.float64)
        config.fit[FIELD] = quantiles(distances, mass)
        model._examples = nearest_examples(distinct, mass, ids, distances, num_clusters, num_examples)
        return model

    @classmethod
    def from_centroids(
        cls,
        centroids: np.ndarray,
        *,
        rule: InstructionRule | None = None,
        encoder: Encoder | str | Path = DEFAULT_ENCODER,
    ) -> "ClusterModel":
        """A cluster model of centroids that another program fitted. Clusters keep their numbers.

        Nothing is known of the instructions that they were fitted to: all counts are 0, and there are no examples.

        Args:
            centroids: (K, D), in the space of this encoder's unit-norm embeddings.

        Raises:
            AssetError: the encoder is not here.
            ClusterModelError: D is not the encoder's.
        """
        rule = rule or InstructionRule()
        encoder = SentenceEncoder(encoder) if isinstance(encoder, (str, Path)) else encoder
        probe = encoder.encode(PROBE_TEXTS, progress=False, exact=True).astype(np.float32)
        centroids = np.asarray(centroids, dtype=np.float32)
        num_clusters, dim = centroids.shape
        if dim != probe.shape[1]:
            raise ClusterModelError(
                f"the centroids have {dim} numbers, but embeddings of {encoder.name!r} have {probe.shape[1]}: they "
                "were fitted with another encoder"
            )
        config = ClusterConfig(
            encoder=encoder.name,
            encoder_weight_hash=encoder.weight_hash,
            dim=dim,
            num_clusters=num_clusters,
            n_init=0,
            instruction_turns=rule.turns,
            instruction_rule_version=rule.version,
        )
        config.fingerprint = fingerprint(config, centroids)
        return cls(centroids, np.zeros(num_clusters), config, probe, [[] for _ in range(num_clusters)], encoder)

    def assign(
        self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return (cluster ids (N,) int64, Euclidean distances to their centroids (N,) float32).

        The id of a text depends on that text alone. Texts of this model's assignment tables are looked up there; only
        others need the encoder.

        Raises:
            ClusterModelError: the encoder is not the one that the centroids were fitted with.
            DataError: a text that UTF-8 cannot hold.
            AssetError: it is needed and not here.
        """
        distinct = sorted(set(texts))
        check_texts(distinct)
        found = self._look_up(distinct)
        place = {text: index for index, text in enumerate(distinct)}
        ids, distances = np.empty(len(distinct), dtype=np.int64), np.empty(len(distinct), dtype=np.float32)
        for text, (cluster, distance) in found.items():
            ids[place[text]], distances[place[text]] = cluster, distance
        new = [text for text in distinct if text not in found]
        if new:
            rows = np.arange(len(distinct)) if not found else np.array([place[text] for text in new])
            encoder = self._encoder_for(new)
            embeddings, error = encoder.encode_rough(new, cache_dir=cache_dir, progress=progress)
            ids[rows], distances[rows] = decide(encoder, self.centroids, new, embeddings, error, cache_dir, progress)
        order = np.fromiter((place[text] for text in texts), dtype=np.int64, count=len(texts))
        return ids[order], distances[order]

    def assign_two(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return (ids (N, 2) int64, distances (N, 2)) of each text's nearest and second nearest cluster, for K >= 2.

        The nearest is that of `assign`. The second is told in float32, so a tie within about 1e-6 may go either way.
        All texts are embedded: an assignment table knows the nearest alone. Raises as `assign`.
        """
        ids, distances = self.assign(texts)
        others, farther = second_nearest(self.embed(texts), self.centroids, ids)
        return np.stack([ids, others], axis=1), np.stack([distances, farther], axis=1)

    def distance_quantile(self, level: float) -> float:
        """The distance to the nearest centroid within which this share of the fitted instructions lies.

        Args:
            level: one of `training_distances.LEVELS`.

        Raises:
            ClusterModelError: the cluster model does not record it.
        """
        return quantile(self.config.fit, level, self._place)

    def embed(self, texts: Sequence[str], cache_dir: str | Path | None = None, progress: bool = False) -> np.ndarray:
        """(N, D) float32: the unit-norm embeddings that texts are assigned by.

        Raises:
            ClusterModelError, DataError, AssetError: as `assign`; the encoder is needed for every text.
        """
        check_texts(texts)
        return self._encoder_for(texts).encode(texts, cache_dir=cache_dir, progress=progress)

    def use_encoder(self, encoder: Encoder) -> bool:
        """Use this encoder from now on if it has the weights of the fit; returns whether it has."""
        if encoder.weight_hash != self.config.encoder_weight_hash:
            return False
        self._given_encoder = encoder
        return True

    def knows(self, table: str | Path) -> None:
        """Look texts up in this assignment table too; one of another cluster model is not used."""
        self._tables.append(Path(table))
        self.__dict__.pop("_stored", None)

    @cached_property
    def _stored(self) -> "list[pa.Table]":
        """The assignment tables of this cluster model that are there; read once, as a server asks text by text."""
        found = []
        for path in self._tables:
            try:
                table = read_stored(path, self.fingerprint)
            except DataError as error:
                logger.warning("clusters are worked out again: %s", error)
                continue
            if table is not None:
                found.append(table)
        return found

    def _look_up(self, texts: Sequence[str]) -> dict[str, tuple[int, float]]:
        found: dict[str, tuple[int, float]] = {}
        for table in self._stored:
            found |= find_stored(table, [text for text in texts if text not in found])
        return found

    @cached_property
    def held_out(self) -> "pa.Table | None":
        """The assignment table of the held-out rows, which `save` writes beside the model; None if there is none."""
        path = None if self._folder is None else self._folder / cluster_files.HELD_OUT_FILE
        return read_table(path) if path is not None and path.is_file() else None

    def nearest_examples(self, cluster: int, n: int = 5) -> list[Example]:
        """Return up to n of the fitted instructions, the nearest to the cluster's centroid first."""
        if not 0 <= cluster < self.num_clusters:
            raise ClusterModelError(f"cluster is {cluster}, expected 0 to {self.num_clusters - 1}")
        return self._examples[cluster][:n]

    def save(self, folder: str | Path, overwrite: bool = False) -> None:
        """Write config.json, centroids.safetensors, examples.jsonl and, where there is one, held_out.parquet, at once.

        Raises:
            ClusterModelError: the folder holds a cluster model and `overwrite` is off, or holds something else.
        """
        tensors: dict[str, np.ndarray] = {"centroids": self.centroids, "counts": self.counts, "probe": self._probe}
        held_out = self.held_out
        cluster_files.write_folder(Path(folder), self.config, tensors, self._examples, overwrite, held_out)

    @classmethod
    def load(
        cls, folder: str | Path, encoder: Encoder | str | Path | None = None, device: "str | torch.device | None" = None
    ) -> "ClusterModel":
        """Read a cluster model. The encoder is looked for when the first text is assigned.

        Args:
            encoder: in place of the recorded name, for example the encoder's folder on this machine. It must be the
                same encoder: that is checked at once.
            device: torch device of an encoder that is loaded here; default: a GPU if there is one.

        Raises:
            ClusterModelError: a file is missing or damaged, or the encoder is another one.
        """
        folder = Path(folder)
        config = ClusterConfig.read(folder / cluster_files.CONFIG_FILE)
        path = folder / cluster_files.CENTROIDS_FILE
        tensors = cluster_files.read_tensors(path, config)
        if config.fingerprint != fingerprint(config, tensors["centroids"]):
            raise ClusterModelError(
                f"{path}: these are not the centroids that config.json was written for; copy the whole cluster model "
                "folder again, or run `llava-mocle cluster` again"
            )
        examples = cluster_files.read_examples(folder / cluster_files.EXAMPLES_FILE, config.num_clusters)
        if isinstance(encoder, (str, Path)):
            encoder = SentenceEncoder(encoder, device)
        model = cls(
            tensors["centroids"], tensors["counts"], config, tensors["probe"], examples, encoder, folder, device
        )
        if encoder is not None:
            model._check_weights(encoder)
        return model

    @cached_property
    def _checked_encoder(self) -> Encoder:
        encoder = self._given_encoder or recorded_encoder(
            self.config.encoder, self.config.encoder_weight_hash, self._device
        )
        self._check_weights(encoder)
        self._check_drift(encoder, encoder.encode(PROBE_TEXTS, progress=False))
        return encoder

    def _encoder_for(self, texts: Sequence[str]) -> Encoder:
        try:
            return self._checked_encoder
        except AssetError as error:
            noun = "text" if len(texts) == 1 else "texts"
            raise AssetError(
                f"{self._place}: the clusters of {len(texts)} {noun} are not stored (the first is {texts[0][:60]!r}), "
                f"so they must be embedded with this cluster model's encoder, {self.config.encoder!r} (weight hash "
                f"{self.config.encoder_weight_hash[:16]}), or a copy of it in any folder. {error}"
            ) from error

    def _check_weights(self, encoder: Encoder) -> None:
        expected, found = self.config.encoder_weight_hash, encoder.weight_hash
        if expected != found:
            raise ClusterModelError(
                f"{self._place}: fitted with encoder {self.config.encoder!r} of weight hash {expected[:16]}, but "
                f"{encoder.name!r} has {found[:16]}: its embeddings would land in wrong clusters. Name the folder of "
                "the original encoder, or run `llava-mocle cluster` with this one"
            )

    def _check_drift(self, encoder: Encoder, fast_probe: np.ndarray) -> None:
        drift = np.linalg.norm(fast_probe - self._probe, axis=1).max()
        if not drift <= FP32_ERROR:
            raise ClusterModelError(
                f"{self._place}: the encoder {encoder.name!r} has the right weights, but its embedding of a probe text "
                f"is off by {drift:.1e} (at most {FP32_ERROR:.0e} is allowed): its tokenizer, its settings, a "
                "library or the arithmetic changed. Restore the encoder's folder and the versions, or run "
                "`llava-mocle cluster` again"
            )

    @property
    def _place(self) -> str:
        return str(self._folder / cluster_files.CONFIG_FILE) if self._folder else "cluster model"
