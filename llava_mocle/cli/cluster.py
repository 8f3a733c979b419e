"""Embed instructions, cluster them with k-means, assign every row; or look at a result.

`llava-mocle cluster` reads the rows of a recipe (or of files), embeds each distinct instruction once, fits k-means and
writes a cluster model folder: config.json, centroids.safetensors, examples.jsonl, assignments.parquet. Running it again
on the same rows and settings reuses the folder.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.clustering.instruction import TURNS
from llava_mocle.errors import ClusterModelError, ConfigError, DataError
from llava_mocle.recipe.keys import ClusterArguments

if TYPE_CHECKING:
    from llava_mocle.clustering.cluster_model import ClusterModel
    from llava_mocle.clustering.encoder import SentenceEncoder

_EXAMPLES = """examples:
  llava-mocle cluster --recipe scripts/recipes/playground_mocle.yaml
      the recipe's datasets and settings; writes the recipe's `cluster_model` folder
  llava-mocle cluster --rows llava_665k.json geo170k.json --num-clusters 64 --seed 0 --output clusters/k64
      any LLaVA JSON or JSONL files; each file is one dataset, named after the file
  llava-mocle cluster --recipe scripts/recipes/playground_mocle.yaml --num-clusters 8 --output clusters/k8
      a flag wins over the recipe; embeddings come from the cache
  llava-mocle cluster inspect clusters/k64
      sizes, cluster x dataset table, and the instructions nearest each centre
"""
_INSPECT_EXAMPLES = """example:
  llava-mocle cluster inspect clusters/k64 --examples 10
"""
_DEFAULTS = ClusterArguments()
_EXAMPLES_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags of the fit and the nested `inspect DIR`."""
    parser.epilog = _EXAMPLES
    parser.usage = f"{parser.prog} (--recipe YAML | --rows FILE...) [options]\n       {parser.prog} inspect DIR"
    source = parser.add_argument_group("what to cluster (one of the two)")
    source.add_argument("--recipe", metavar="YAML", help="a recipe: its datasets, weighted by their `repeat`")
    source.add_argument("--rows", metavar="FILE", nargs="+", help="LLaVA JSON or JSONL files")
    how = parser.add_argument_group("how (each wins over the recipe)")
    how.add_argument(
        "--num-clusters", metavar="K", type=int, help=f"number of clusters (default: {_DEFAULTS.num_clusters})"
    )
    how.add_argument("--seed", metavar="S", type=int, help=f"seed of k-means++ (default: {_DEFAULTS.cluster_seed})")
    how.add_argument(
        "--n-init",
        metavar="N",
        type=int,
        help=f"restarts of k-means; the best is kept (default: {_DEFAULTS.cluster_n_init})",
    )
    how.add_argument(
        "--encoder",
        metavar="NAME",
        help=f"sentence encoder, a name or a folder (default: {_DEFAULTS.cluster_encoder})",
    )
    how.add_argument(
        "--turns", choices=TURNS, help=f"human turns that route a row (default: {_DEFAULTS.instruction_turns})"
    )
    where = parser.add_argument_group("where")
    where.add_argument("--output", metavar="DIR", help="cluster model folder (default: the recipe's `cluster_model`)")
    where.add_argument(
        "--cache-dir",
        metavar="DIR",
        help="where embeddings are kept (default: embeddings/ in $LLAVA_MOCLE_CACHE, else in ~/.cache/llava_mocle)",
    )
    where.add_argument("--device", help="where the encoder runs (default: the GPU if there is one)")
    where.add_argument("--overwrite", action="store_true", help="replace another cluster model in the output folder")
    actions = parser.add_subparsers(dest="action", metavar="", title="look at a result", prog=parser.prog)
    inspect = actions.add_parser(
        "inspect",
        help="print sizes, cluster x dataset table and nearest instructions",
        description="Print a cluster model: sizes, cluster x dataset table, and the instructions nearest each centre.",
        epilog=_INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument("folder", metavar="DIR", help="a cluster model folder, or a checkpoint's clusters/ folder")
    inspect.add_argument(
        "--examples", metavar="N", type=int, default=_EXAMPLES_SHOWN, help="instructions a cluster (default: 3)"
    )


def run(args: argparse.Namespace) -> int:
    """Fit, or inspect."""
    from llava_mocle.cli.cluster_view import show

    if args.action == "inspect":
        show(Path(args.folder), args.examples)
        return 0
    job = _job_of_recipe(args) if args.recipe else _job_of_files(args)
    _fit(job)
    show(job.output, _EXAMPLES_SHOWN, job.assignments)
    return 0


@dataclass
class _Job:
    rows: Mapping[str, Sequence[dict[str, Any]]]
    repeat: dict[str, float]
    output: Path
    num_clusters: int
    seed: int
    n_init: int
    turns: str
    encoder: str
    cache_dir: Path
    device: str | None
    overwrite: bool
    assignments: Path


def _job_of_recipe(args: argparse.Namespace) -> _Job:
    if args.rows:
        raise ConfigError("both --recipe and --rows were given: drop one")
    from llava_mocle.data.rows import read_rows
    from llava_mocle.recipe.recipe import load_recipe

    recipe = load_recipe(args.recipe)
    specs = recipe.data.dataset_specs()
    if not specs:
        raise ConfigError(f"{args.recipe}: names no dataset to cluster; fill its `datasets`")
    rows = {spec.name: read_rows(spec.data_path) for spec in specs}
    return _job(args, rows, {spec.name: float(spec.repeat) for spec in specs}, recipe.cluster)


def _job_of_files(args: argparse.Namespace) -> _Job:
    if not args.rows:
        raise ConfigError("nothing to cluster: give --recipe YAML or --rows FILE... (`llava-mocle cluster --help`)")
    from llava_mocle.data.rows import read_rows

    files: dict[str, Path] = {}
    for name in map(Path, args.rows):
        if name.stem in files:
            raise ConfigError(
                f"--rows: {files[name.stem]} and {name} would both be dataset {name.stem!r}: rename one, "
                "or use a recipe"
            )
        files[name.stem] = name
    return _job(args, {name: read_rows(path) for name, path in files.items()}, {}, _DEFAULTS)


def _job(
    args: argparse.Namespace,
    rows: Mapping[str, Sequence[dict[str, Any]]],
    repeat: dict[str, float],
    settings: ClusterArguments,
) -> _Job:
    from llava_mocle.clustering.cluster_files import ASSIGNMENTS_FILE
    from llava_mocle.clustering.embedding_cache import default_cache_dir

    def choose(given: Any, key: str) -> Any:
        return getattr(settings, key) if given is None else given

    output = choose(args.output, "cluster_model")
    if output is None:
        raise ConfigError("no output folder: give --output DIR, or `cluster_model` in the recipe")
    # With another output folder, the recipe's table stays that of the recipe's clustering.
    table = settings.cluster_assignments if args.output is None else None
    return _Job(
        rows=rows,
        repeat=repeat,
        output=Path(output),
        num_clusters=choose(args.num_clusters, "num_clusters"),
        seed=choose(args.seed, "cluster_seed"),
        n_init=choose(args.n_init, "cluster_n_init"),
        turns=choose(args.turns, "instruction_turns"),
        encoder=choose(args.encoder, "cluster_encoder"),
        cache_dir=Path(choose(args.cache_dir, "cluster_cache_dir") or default_cache_dir()),
        device=args.device,
        overwrite=args.overwrite,
        assignments=Path(table or Path(output) / ASSIGNMENTS_FILE),
    )


def _fit(job: _Job) -> None:
    import time

    from llava_mocle.clustering import cluster_files
    from llava_mocle.clustering.assign import assign_rows, route_texts, write_assignments
    from llava_mocle.clustering.cluster_config import fit_request, weigh
    from llava_mocle.clustering.cluster_model import ClusterModel
    from llava_mocle.clustering.encoder import SentenceEncoder
    from llava_mocle.clustering.instruction import InstructionRule
    from llava_mocle.model.placement import choose_placement

    started = time.perf_counter()
    rule = InstructionRule(job.turns)
    texts = route_texts(job.rows, rule)
    flat = [text for part in texts.values() for text in part]
    weights = [job.repeat.get(name, 1.0) for name, part in texts.items() for _ in part]
    weight_of = weigh(flat, weights)
    device, _ = choose_placement(job.device, None)
    encoder = SentenceEncoder(job.encoder, device)
    request = fit_request(weight_of, job.num_clusters, job.seed, job.n_init, rule, encoder.weight_hash)
    print(f"{len(flat):,} rows of {len(texts)} datasets, {len(weight_of):,} distinct instructions", flush=True)
    model = _existing(job.output, request, encoder)
    if model is None:
        cluster_files.check_writable(job.output, job.overwrite)
        print(f"encoder {encoder.name} at {encoder.folder}\nembedding cache {job.cache_dir}", flush=True)
        model = ClusterModel.fit(
            flat,
            job.num_clusters,
            weights=weights,
            seed=job.seed,
            n_init=job.n_init,
            rule=rule,
            encoder=encoder,
            cache_dir=job.cache_dir,
        )
        model.save(job.output, overwrite=job.overwrite)
    elif _assignments_hold(job, model):
        print(
            f"{job.output} already holds this clustering of these rows: reused ({time.perf_counter() - started:.1f} s)"
        )
        return
    else:
        print(f"{job.output} already holds this clustering: reused; assigning the rows", flush=True)
    table = assign_rows(model, job.rows, cache_dir=job.cache_dir)
    write_assignments(table, job.assignments)
    print(f"wrote {job.output} in {time.perf_counter() - started:.1f} s")


def _existing(folder: Path, request: str, encoder: "SentenceEncoder") -> "ClusterModel | None":
    """Return the cluster model in `folder` if it is the one that this request would fit with this encoder."""
    from llava_mocle.clustering import cluster_files
    from llava_mocle.clustering.cluster_model import ClusterModel

    if not cluster_files.is_cluster_model(folder):
        return None
    try:
        model = ClusterModel.load(folder, encoder)
    except ClusterModelError:
        return None
    return model if model.config.fit.get("request") == request else None


def _assignments_hold(job: _Job, model: "ClusterModel") -> bool:
    from llava_mocle.clustering.assign import read_assignments

    try:
        read_assignments(job.assignments, job.rows, model)
    except (DataError, ClusterModelError):
        return False
    return True
