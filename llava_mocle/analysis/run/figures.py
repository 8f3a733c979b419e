"""The figures of one run: each by its name, from the run's folder alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llava_mocle.adapter.options import LEARNED_ROUTERS
from llava_mocle.analysis.loss_curves import plot_loss_curves
from llava_mocle.analysis.run.cluster_examples import sample_examples, write_examples
from llava_mocle.analysis.run.cluster_heatmap import plot_cluster_heatmap
from llava_mocle.analysis.run.dataset_routing import DatasetExperts, expert_shares, plot_dataset_experts, plot_universal
from llava_mocle.analysis.run.expert_use import plot_expert_use
from llava_mocle.analysis.run.folder import DatasetClusters, RunFolder, find_site
from llava_mocle.analysis.run.gate_sharpness import plot_gate_sharpness
from llava_mocle.analysis.run.instruction_map import (
    Point,
    draw_instructions,
    embed_in_plane,
    kinds_of,
    plot_instruction_map,
)
from llava_mocle.analysis.run.routing import plot_routing
from llava_mocle.errors import ConfigError


@dataclass(frozen=True)
class FigureOptions:
    """What a user can choose.

    Attributes:
        output: the folder that the files go to.
        held_out: sources of datasets that the run was not trained on, see `RunFolder.held_out_clusters`.
        site: the adapted linear that `experts` shows; None: the middle one.
        instructions: the most instructions of a dataset on the map.
        examples: instructions of a cluster of each kind.
        categories: dataset -> its task category, for the map's markers.
        seed: of what is drawn by chance.
        rows: the most rows of a dataset that `experts` asks a model about whose router looks at rows.
        image_folder: of the held-out rows that it is asked about.
        overrides: keys of the recipe for loading that model, as words of the command line.
        loads_model: whether it may be loaded.
    """

    output: Path
    held_out: Sequence[str] = ()
    site: str | None = None
    instructions: int = 100
    examples: int = 5
    categories: Mapping[str, str] = field(default_factory=dict)
    seed: int = 0
    rows: int = 64
    image_folder: str = ""
    overrides: Sequence[str] = ()
    loads_model: bool = True


def _map(run: RunFolder, options: FigureOptions) -> Path:
    unknown = sorted(set(options.categories) - set(run.instructions))
    if unknown:
        raise ConfigError(f"--category {unknown[0]}: the run has no such dataset; it has {', '.join(run.instructions)}")
    drawn = draw_instructions(run.instructions, options.instructions, options.seed)
    datasets = [name for name, texts in drawn.items() for _ in texts]
    texts = [text for own in drawn.values() for text in own]
    places = embed_in_plane(run.cluster_model.embed(texts, run.cache_dir), options.seed)
    clusters = run.cluster_model.assign(texts, run.cache_dir)[0].tolist()
    kinds = kinds_of(datasets, clusters, run.cluster_model.num_clusters, options.categories)
    points = [Point(*values) for values in zip(datasets, texts, kinds, strict=True)]
    return plot_instruction_map(points, places, options.output / "tsne.png", clusters)


def _clusters(run: RunFolder, options: FigureOptions) -> Path:
    trained, held_out = run.dataset_clusters(), run.held_out_clusters(options.held_out)
    return plot_cluster_heatmap(
        {dataset.name: dataset.counts for dataset in trained},
        options.output / "clusters.png",
        held_out={dataset.name: dataset.counts for dataset in held_out},
        counted=trained[0].counted,
    )


def _datasets(run: RunFolder, options: FigureOptions) -> list[DatasetClusters]:
    return [*run.dataset_gates(), *run.held_out_clusters(options.held_out)]


def _experts(run: RunFolder, options: FigureOptions) -> Path:
    site, path = find_site(run.sites, options.site), options.output / "experts.png"
    if run.config.router in LEARNED_ROUTERS:
        shares, counted = _measured(run, options)
        return plot_dataset_experts(shares, run.sites, site, path, counted)
    if options.overrides:
        raise ConfigError(
            f"unexpected words: {' '.join(options.overrides)}; keys of a recipe are for a model that is loaded, and "
            f"router {run.config.router!r} needs none"
        )
    gates, datasets = run.gates, _datasets(run, options)
    return plot_dataset_experts(expert_shares(datasets, gates), run.sites, site, path, datasets[0].counted)


def _measured(run: RunFolder, options: FigureOptions) -> tuple[list[DatasetExperts], str]:
    """What the datasets' rows choose, and what was counted, for a router that looks at rows."""
    router = run.config.router
    if not options.loads_model:
        raise ConfigError(
            f"router {router!r} looks at the rows themselves, so the model has to be loaded: `llava-mocle analyze "
            f"experts {run.path}` does it"
        )
    from llava_mocle.analysis.run.measured_experts import measure_experts
    from llava_mocle.analysis.training_point import load_point

    more = [
        {"name": name, "data_path": str(path), "image_folder": options.image_folder}
        for name, path in run.held_out_files(options.held_out).items()
    ]
    point = load_point(run.path, options.overrides, more)
    shares = measure_experts(point, options.rows, len(point.names) - len(more), options.seed)
    if router == "token":
        return shares, f"tokens in up to {options.rows} rows drawn by chance (those of images included)"
    return shares, f"rows (up to {options.rows}, drawn by chance)"


def _universal(run: RunFolder, options: FigureOptions) -> Path:
    gates = run.gates
    if not run.config.universal_expert:
        raise ConfigError(f"{run.path}: has no universal expert, so no dataset has a weight of it")
    return plot_universal(_datasets(run, options), gates, options.output / "universal.png")


def _examples(run: RunFolder, options: FigureOptions) -> Path:
    model = run.cluster_model
    found = sample_examples(model, run.instructions, options.examples, options.seed)
    return write_examples(found, model.counts, options.output / "examples.md")


def _routing(run: RunFolder, options: FigureOptions) -> Path:
    config = run.config
    return plot_routing(
        run.gates, options.output / "routing.png", top_k=config.top_k, universal=config.universal_expert,
        gate_mode=config.gate_mode,
    )  # fmt: skip


def _gates(run: RunFolder, options: FigureOptions) -> Path:
    gates = run.gates
    weights = np.sum([dataset.counts for dataset in run.dataset_gates()], axis=0)
    return plot_gate_sharpness(gates, run.sites, options.output / "gates.png", weights)


def _use(run: RunFolder, options: FigureOptions) -> Path:
    return plot_expert_use(run.log(), options.output / "use.png")


def _losses(run: RunFolder, options: FigureOptions) -> Path:
    return plot_loss_curves({run.path.name: run.log()}, options.output / "losses.png")


# Name -> what writes the figure's files, and gives the first of them. It raises a `UserError` where the run lacks what
# it needs.
MAKERS: dict[str, Callable[[RunFolder, FigureOptions], Path]] = {
    "tsne": _map,
    "clusters": _clusters,
    "experts": _experts,
    "universal": _universal,
    "examples": _examples,
    "routing": _routing,
    "gates": _gates,
    "use": _use,
    "losses": _losses,
}
