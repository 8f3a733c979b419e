"""A bundle: the folder that inference engines and the router in front of them read. This file is its contract.

```
BUNDLE/bundle.json    what the bundle is: `Manifest`
       routing.json   what a router needs to know of the model: `Routing`
       clusters/      the cluster model; encoder/ beside it is its sentence encoder, where that was copied
       base/          the whole model with the trained projector in it, its tokenizer, chat template and processor
       adapters/      cluster_0/ ... and universal/: plain LoRA folders of PEFT (or one GGUF file each)
       merged/        in place of base/ and adapters/: cluster_0/ ..., one whole model each
```
Nothing in it names a place outside of it, so a bundle may be moved.
"""

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.errors import CheckpointError
from llava_mocle.io.files import sha256_of, write_text
from llava_mocle.io.jsonl import read_json
from llava_mocle.io.paths import looked_for
from llava_mocle.model.folders import CLUSTERS_FOLDER

if TYPE_CHECKING:
    import torch

    from llava_mocle.clustering import ClusterModel

FORMAT_VERSION = 1
BUNDLE_FILE = "bundle.json"
ROUTING_FILE = "routing.json"
BASE_FOLDER = "base"
ADAPTERS_FOLDER = "adapters"
MERGED_FOLDER = "merged"
ENCODER_FOLDER = "encoder"
# What an engine calls the model without any adapter, and the adapter of the universal expert alone.
BASE_NAME = "base"
UNIVERSAL_NAME = "universal"
_REMEDY = "export the model again with `llava-mocle export`"


def adapter_name(cluster: int) -> str:
    """What an engine calls a cluster's adapter, and the name of its folder."""
    return f"cluster_{cluster}"


@dataclass(frozen=True)
class Truncation:
    """What `--rank` lost: Frobenius norms of differences over those of the whole updates, from 0 to 1.

    Attributes:
        total: over all sites together.
        sites: of each site, by its name.
    """

    total: float
    sites: Mapping[str, float]


@dataclass(frozen=True)
class Manifest:
    """bundle.json.

    Attributes:
        model_id: name and fingerprint of the trained model, as answer files have it.
        dtype: of the weights, such as "bfloat16".
        format: what `--format` said: "vllm", "sglang", "gguf" or "merged".
        engine: what reads it: "vllm", "sglang" or "llamacpp".
        ranks: adapter -> rank of its LoRA; empty for "merged".
        files: path in the bundle -> SHA-256, of every file but this one.
        command: the engine's command line, to be run in the bundle's folder. "merged" has one line a model.
        sees_images: whether the engine answers about images; "gguf" has text alone.
        truncation: adapter -> what `--rank` lost; empty without it.
        format_version: of this contract.
    """

    model_id: str
    dtype: str
    format: str
    engine: str
    ranks: Mapping[str, int]
    files: Mapping[str, str]
    command: str
    sees_images: bool = True
    truncation: Mapping[str, Truncation] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


@dataclass(frozen=True)
class ClusterEntry:
    """One cluster (or one dataset, for a model routed by dataset) as an engine serves it.

    Attributes:
        cluster: its id.
        adapter: the engine's name of its adapter: "cluster_2". For "merged", the name of its whole model.
        experts: site -> the ids of the task experts that it takes there.
        gates: site -> the weights that these have there, in the same order.
        universal_weight: of the universal expert, the mean over the sites; None without one.
        samples: how many training instructions fell into it; 0 where this is not known.
        nearest: training instructions nearest its centroid, the nearest first.
        name: the dataset's name; None for a cluster.
    """

    cluster: int
    adapter: str
    experts: Mapping[str, tuple[int, ...]]
    gates: Mapping[str, tuple[float, ...]]
    universal_weight: float | None
    samples: float
    nearest: tuple[str, ...]
    name: str | None = None


@dataclass(frozen=True)
class OutOfDistribution:
    """When an instruction is far from every cluster, and what answers it then.

    Attributes:
        quantile: this share of the training instructions is nearer to its centroid than `distance`.
        distance: Euclidean, of unit-norm embeddings.
        adapter: "universal".
    """

    quantile: float
    distance: float
    adapter: str = UNIVERSAL_NAME


@dataclass(frozen=True)
class ImageFacts:
    """What must be done to an image before an engine gets it, as its own processor does not do it.

    Attributes:
        aspect_ratio: "pad": make it square on `background`, the image in the middle, as `data.images.pad_to_square`
            does; "square": leave it as it is.
        background: red, green, blue, 0 to 255.
        size: side of the image that the vision tower takes, in pixels; None: it depends on the image.
        tokens: places that an image takes in the prompt; None: it depends on the image.
        resample: Pillow's number of the filter that the model's own processor resizes with. An image that was made
            square and resized to `size` with it is the same in every engine; None: it is not known.
    """

    aspect_ratio: str
    background: tuple[int, int, int]
    size: int | None
    tokens: int | None
    resample: int | None = None


@dataclass(frozen=True)
class Routing:
    """routing.json.

    Attributes:
        router: "cluster" or "dataset".
        num_experts: E, without the universal expert.
        universal: whether the adapter has a universal expert.
        sites: the names of the adapted modules.
        clusters: those that were exported, by rising id.
        ood: None where no universal expert was exported, or the cluster model records no distances.
        instruction: which text of a conversation is embedded.
        template: name of the prompt template; base/chat_template.jinja writes the same.
        image: what to do to images.
        stop_token_ids: tokens that end an answer.
        stop_strings: texts that end an answer, where the end of turn is not one token.
        context_length: how many tokens the model reads, answer and images included; None: not known.
        num_clusters: K, of the trained model.
    """

    router: str
    num_experts: int
    universal: bool
    sites: tuple[str, ...]
    clusters: tuple[ClusterEntry, ...]
    ood: OutOfDistribution | None
    instruction: InstructionRule
    template: str
    image: ImageFacts
    stop_token_ids: tuple[int, ...]
    stop_strings: tuple[str, ...]
    context_length: int | None
    num_clusters: int

    def entry(self, cluster: int) -> ClusterEntry | None:
        """The entry of a cluster; None where it was not exported."""
        return next((entry for entry in self.clusters if entry.cluster == cluster), None)


@dataclass(frozen=True)
class Bundle:
    """A bundle that was opened.

    Attributes:
        folder: where it is.
        manifest: what bundle.json says.
        routing: what routing.json says.
    """

    folder: Path
    manifest: Manifest
    routing: Routing

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Read a bundle's two JSON files, and see that the files are there which they name. Nothing is hashed.

        Raises:
            CheckpointError: this is no bundle, or a file is missing or damaged, or of a release that is not known here.
        """
        folder = Path(path)
        if not (folder / BUNDLE_FILE).is_file():
            raise CheckpointError(
                f"{folder}: holds no {BUNDLE_FILE}{looked_for(folder)}, so it is no bundle; make one of a trained "
                f"model: llava-mocle export --model RUN --output {folder}"
            )
        manifest = _parse(Manifest, folder / BUNDLE_FILE)
        if manifest.format_version != FORMAT_VERSION:
            raise CheckpointError(
                f"{folder / BUNDLE_FILE}: format_version is {manifest.format_version!r}, and this release knows "
                f"{FORMAT_VERSION}; {_REMEDY} of this release."
            )
        missing = [name for name in manifest.files if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(
                f"{folder}: {len(missing)} of its files are missing, for example {', '.join(missing[:3])}; copy the "
                f"whole folder again, or {_REMEDY}."
            )
        return cls(folder, manifest, _parse(Routing, folder / ROUTING_FILE))

    @property
    def base(self) -> Path:
        """The folder of the whole model under the adapters."""
        return self.folder / BASE_FOLDER

    @property
    def clusters(self) -> Path:
        """The folder of the cluster model; a model that is routed by dataset has none."""
        return self.folder / CLUSTERS_FOLDER

    @property
    def adapter_names(self) -> list[str]:
        """What the engine's models are called: those of the clusters, then "universal" where there is one."""
        names = [entry.adapter for entry in self.routing.clusters]
        return names + [UNIVERSAL_NAME] * (UNIVERSAL_NAME in self.manifest.ranks)

    def cluster_model(
        self, encoder: str | os.PathLike[str] | None = None, device: "str | torch.device | None" = None
    ) -> "ClusterModel":
        """The cluster model, with the sentence encoder that lies in the bundle, or else with the one that it records.

        Args:
            encoder: a folder of the same encoder, in place of both.
            device: of the encoder; default: a GPU if there is one.

        Raises:
            ClusterModelError: it is missing or damaged, or the encoder is another one.
        """
        from llava_mocle.clustering import ClusterModel

        copied = self.folder / ENCODER_FOLDER
        if encoder is None and copied.is_dir():
            encoder = copied
        return ClusterModel.load(self.clusters, None if encoder is None else Path(encoder), device)

    def check_hashes(self) -> None:
        """Read every file of the bundle and compare its SHA-256.

        Raises:
            CheckpointError: files are not those that were exported; names them.
        """
        wrong = [name for name, digest in self.manifest.files.items() if sha256_of(self.folder / name) != digest]
        if wrong:
            raise CheckpointError(
                f"{self.folder}: {len(wrong)} of its files are not those that were exported, for example "
                f"{', '.join(wrong[:3])}; copy the whole folder again, or {_REMEDY}."
            )


def write_json(path: Path, record: Any) -> None:
    """Write one of the two JSON files."""
    write_text(path, json.dumps(dataclasses.asdict(record), indent=1, ensure_ascii=False) + "\n")


def _parse(kind: Any, path: Path) -> Any:
    """A dataclass of this file from its JSON; fields that later releases add are passed over."""
    remedy = f"the bundle is damaged: {_REMEDY}"
    try:
        return _of(kind, read_json(path, remedy))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: is not as expected ({type(error).__name__}: {error}); {remedy}.") from error


def _of(kind: Any, values: Mapping[str, Any]) -> Any:
    known = {name: values[name] for name in (item.name for item in dataclasses.fields(kind)) if name in values}
    for name, read in _INNER.get(kind, {}).items():
        if known.get(name) is not None:
            known[name] = read(known[name])
    return kind(**known)


def _tuples(values: Mapping[str, list[Any]]) -> dict[str, tuple[Any, ...]]:
    return {name: tuple(value) for name, value in values.items()}


# How the fields that hold more than a number, a text or an object of these are read from JSON.
_INNER: dict[Any, dict[str, Any]] = {
    Manifest: {"truncation": lambda found: {name: _of(Truncation, value) for name, value in found.items()}},
    ClusterEntry: {"experts": _tuples, "gates": _tuples, "nearest": tuple},
    ImageFacts: {"background": tuple},
    Routing: {
        "sites": tuple,
        "clusters": lambda found: tuple(_of(ClusterEntry, value) for value in found),
        "ood": lambda found: _of(OutOfDistribution, found),
        "instruction": lambda found: InstructionRule(**found),
        "image": lambda found: _of(ImageFacts, found),
        "stop_token_ids": tuple,
        "stop_strings": tuple,
    },
}
