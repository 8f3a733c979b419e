"""From a trained model to a bundle: refuse early, write aside, check, rename."""

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from llava_mocle.data.conversation import Template
from llava_mocle.export import commands, gguf
from llava_mocle.export.adapters import Lora, loras_of, twins, with_twins, write_lora
from llava_mocle.export.base_folder import write_base_files
from llava_mocle.export.bundle import (
    ADAPTERS_FOLDER,
    BASE_FOLDER,
    BUNDLE_FILE,
    MERGED_FOLDER,
    ROUTING_FILE,
    UNIVERSAL_NAME,
    Bundle,
    Manifest,
    Truncation,
    adapter_name,
    write_json,
)
from llava_mocle.export.clusters import write_clusters
from llava_mocle.export.formats import ENGINES
from llava_mocle.export.request import Export, find_base_of, refuse_early
from llava_mocle.export.routing import routing_of
from llava_mocle.export.self_check import Difference, Tolerances, check_bundle, expected_logits, questions_of
from llava_mocle.export.sizes import adapters_bytes, computed_in, folder_bytes, refuse_full_disk, saved_dtype
from llava_mocle.export.vllm_plugin import architecture_of
from llava_mocle.export.whole_model import base_weights, engine_name, linear_shapes, stored_bytes, write_weights
from llava_mocle.inference.generation import Stopping, find_stopping
from llava_mocle.inference.model_id import model_id
from llava_mocle.io.files import sha256_of
from llava_mocle.io.folders import new_folder, only_one, remove_leftovers
from llava_mocle.io.progress import progress
from llava_mocle.model.folders import find_folder
from llava_mocle.model.load import LoadedModel, load_model
from llava_mocle.model.placement import parse_dtype


@dataclass
class Written:
    """What is kept of a trained model once a bundle's files are written, and the model is gone."""

    manifest: Manifest
    batches: list[dict[str, Tensor]]
    expected: dict[str, Tensor]
    tolerances: Tolerances
    computed: torch.dtype
    differences: dict[str, Difference] = field(default_factory=dict)


def export(request: Export) -> tuple[Bundle, dict[str, Difference]]:
    """Write a bundle, check it, and put it in its place.

    Returns:
        The bundle, and what the self-check found (nothing for "gguf", which only llama.cpp can run).

    Raises:
        CheckpointError: the model cannot be exported, the output is there already, or the self-check failed.
        ConfigError, RoutingError: an option is wrong, or does not fit the model.
        AssetError: the converters for "gguf" are not installed.
    """
    clusters = refuse_early(request)
    with only_one(request.output, "`llava-mocle export`"):
        remove_leftovers(request.output)  # many GiB, of an export that was killed
        return _export(request, clusters)


def _export(request: Export, clusters: list[int]) -> tuple[Bundle, dict[str, Difference]]:
    with new_folder(request.output) as folder:
        written = _write(folder, request, clusters)
        gc.collect()  # the trained model, before the bundle is loaded
        if request.format != "gguf":
            written.differences = check_bundle(
                folder,
                written.batches,
                written.expected,
                request.format == "merged",
                written.tolerances,
                written.computed,
            )
        _seal(folder, written.manifest)
    return Bundle.open(request.output), written.differences


def _write(folder: Path, request: Export, clusters: list[int]) -> Written:
    """Load the trained model, and write all but bundle.json."""
    source = find_folder(request.model, "a trained MoCLE checkpoint")
    dtype = parse_dtype(request.dtype) if request.dtype else saved_dtype(find_base_of(request, source))
    computed = computed_in(find_base_of(request, source), dtype)
    loaded = load_model(
        request.model,
        dtype=computed,
        device="cpu",
        base=request.base,
        vision_tower=request.vision_tower,
        encoder=request.encoder,
        allow_other_base=request.allow_other_base,
    )
    template = loaded.family.template(loaded.template)
    stopping = find_stopping(loaded.tokenizer, getattr(template, "end", ""))
    routing = routing_of(loaded, clusters, stopping)
    routes: dict[str, int | None] = {adapter_name(cluster): cluster for cluster in clusters}
    if request.format != "merged" and routing.universal and routing.router == "cluster":
        routes[UNIVERSAL_NAME] = None
    else:
        routing = replace(routing, ood=None)  # nothing would answer
    weights = base_weights(loaded.model)
    _refuse_full_disk(request, loaded, weights, dtype, routes)
    batches = questions_of(loaded)
    expected = expected_logits(loaded.model, batches, routes)
    if loaded.cluster_model is not None:
        write_clusters(folder, loaded.cluster_model, request.encoder)
    write_json(folder / ROUTING_FILE, routing)
    loras = loras_of(loaded.model, clusters, UNIVERSAL_NAME in routes, request.rank)
    parts = _Models(folder, request.format, loaded, weights, dtype, template, stopping)
    ranks, truncation = parts.write(loras, list(routes))
    targets = sorted({site.rpartition(".")[2] for site in parts.sites})
    name = str(dtype).removeprefix("torch.")
    manifest = Manifest(
        model_id=model_id(loaded.path, loaded.base_path, loaded.tower_path),
        dtype=name,
        format=request.format,
        engine=ENGINES[request.format],
        ranks=ranks,
        files={},
        command=commands.of_format(request.format, ranks, targets, name, list(routes)),
        sees_images=request.format != "gguf",
        truncation=truncation,
    )
    tolerances = Tolerances.of(dtype, computed, any(lost.total for lost in truncation.values()))
    return Written(manifest, batches, expected, tolerances, computed)


@dataclass
class _Models:
    """The models of a bundle as they are written.

    Attributes:
        sites: the modules that the adapters have weights for; known once they are written.
    """

    folder: Path
    format: str
    loaded: LoadedModel
    weights: dict[str, Tensor]
    dtype: torch.dtype
    template: Template
    stopping: Stopping
    sites: set[str] = field(default_factory=set)

    def write(self, loras: Iterable[Lora], names: list[str]) -> tuple[dict[str, int], dict[str, Truncation]]:
        """Write base and adapters, or whole models; returns adapter -> rank and adapter -> what `--rank` lost."""
        ranks: dict[str, int] = {}
        truncation: dict[str, Truncation] = {}
        if self.format == "merged":
            for lora in loras:
                self._write_whole(self.folder / MERGED_FOLDER / lora.name, lora)
            return ranks, truncation
        kept = self._noted(loras, truncation)
        if self.format == "gguf":
            text_model = self.folder / ".text"
            with progress(0, "language model", "byte", unit_scale=True) as bar:
                gguf.write_text_model(text_model, self.loaded, self.weights, self.dtype, self.template, bar)
            with progress(len(names), "convert to GGUF", "adapter") as bar:
                return gguf.convert(self.folder, text_model, kept, self.dtype, bar), truncation
        self._write_whole(self.folder / BASE_FOLDER, None)
        shapes = linear_shapes(self.weights)
        with progress(len(names), "adapters", "adapter", patience=1) as bar:
            for lora in kept:
                if self.format == "sglang":
                    lora = with_twins(lora, shapes)
                    self.sites |= set(lora.pairs)
                write_lora(self.folder / ADAPTERS_FOLDER / lora.name, lora, self.dtype, f"../../{BASE_FOLDER}")
                ranks[lora.name] = lora.rank
                bar.update(1)
        return ranks, truncation

    def _noted(self, loras: Iterable[Lora], truncation: dict[str, Truncation]) -> Iterable[Lora]:
        for lora in loras:
            self.sites |= set(lora.pairs)
            if lora.truncation is not None:
                truncation[lora.name] = lora.truncation
            yield lora

    def _write_whole(self, folder: Path, lora: Lora | None) -> None:
        folder.mkdir(parents=True)
        config = self.loaded.model.config
        tower_type = config.vision_config.model_type
        write_base_files(folder, self.loaded, self.template, self.stopping, self.dtype, architecture_of(config))
        size = stored_bytes(self.weights, self.dtype)
        with progress(size, f"weights of {folder.name}", "byte", unit_scale=True, patience=1) as bar:
            write_weights(
                folder,
                self.weights,
                self.dtype,
                lambda name: engine_name(name, tower_type),
                bar,
                None if lora is None else lora.pairs,
                1.0 if lora is None else lora.scaling,
            )


def _refuse_full_disk(
    request: Export, loaded: LoadedModel, weights: dict[str, Tensor], dtype: torch.dtype, routes: dict[str, int | None]
) -> None:
    whole = stored_bytes(weights, dtype)
    if request.format == "merged":
        needed, what = len(routes) * whole, f"{len(routes)} merged models"
    else:
        config, shapes = loaded.model.peft_config[loaded.model.active_adapter], linear_shapes(weights)
        sites = [*config.sites, *(twins(config.sites, shapes) if request.format == "sglang" else ())]
        each = adapters_bytes(config, [shapes[site] for site in sites], dtype, request.rank)
        copies = 2 if request.format == "gguf" else 1
        needed, what = copies * whole + len(routes) * each, f"a base and {len(routes)} adapters"
    refuse_full_disk(request.output, needed, what)


def _seal(folder: Path, manifest: Manifest) -> None:
    """Write bundle.json, with the hash of every other file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {}
    with progress(folder_bytes(folder), "hash", "byte", unit_scale=True, patience=1) as bar:
        for path in paths:
            files[path.relative_to(folder).as_posix()] = sha256_of(path)
            bar.update(path.stat().st_size)
    write_json(folder / BUNDLE_FILE, replace(manifest, files=files))
