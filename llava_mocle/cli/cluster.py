"""Embed instructions, cluster them with k-means, assign every row; or look at a result.

`llava-mocle cluster` reads the rows of a recipe (or of files), embeds each distinct instruction once, fits k-means and
writes a cluster model folder: config.json, centroids.safetensors, examples.jsonl, assignments.parquet. Running it again
on the same rows and settings reuses the folder.
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_mocle.cli import cluster_sweep
from llava_mocle.clustering.instruction import TURNS
from llava_mocle.errors import ClusterModelError, ConfigError, DataError
from llava_mocle.io.paths import user_path
from llava_mocle.recipe.keys import ClusterArguments

if TYPE_CHECKING:
    from llava_mocle.cli.cluster_rows import ClusterRows, Rows
    from llava_mocle.clustering.cluster_model import ClusterModel
    from llava_mocle.clustering.fitting import FitRequest

_EXAMPLES = """examples:
  llava-mocle cluster --recipe scripts/recipes/playground_mocle.yaml
      the recipe's datasets and settings; writes the recipe's `cluster_model` folder
  llava-mocle cluster --rows llava_665k.json geo170k.json --num-clusters 64 --seed 0 --output clusters/k64
      any LLaVA JSON or JSONL files; each file is one dataset, named after the file
  llava-mocle cluster --recipe scripts/recipes/playground_mocle.yaml --num-clusters 8 --output clusters/k8
      a flag wins over the recipe; embeddings come from the cache
  llava-mocle cluster sweep --recipe scripts/recipes/playground_mocle.yaml --num-clusters 4,16,64
      which K to start with: inertia, silhouette, and whether paraphrases stay together
  llava-mocle cluster inspect clusters/k64
      sizes, cluster x dataset table, and the instructions nearest each centre
"""
_INSPECT_EXAMPLES = """example:
  llava-mocle cluster inspect clusters/k64 --examples 10
"""
_DEFAULTS = ClusterArguments()
# What stands in for a key that the recipe leaves out, in words.
_UNSET = {
    "cluster_model": "the recipe's `cluster_model`",
    "cluster_cache_dir": "embeddings/ in $LLAVA_MOCLE_CACHE, else in ~/.cache/llava_mocle",
}
_EXAMPLES_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    own = ("(--recipe YAML | --rows FILE...) [options]", "sweep (--recipe YAML | --rows FILE...)", "inspect DIR")
    parser.usage = "\n       ".join(f"{parser.prog} {words}" for words in own)
    source = parser.add_argument_group("what to cluster (one of the two)")
    source.add_argument(
        "--recipe",
        type=user_path,
        metavar="YAML",
        help="a recipe: its datasets, weighted by their `repeat` (or `weight`)",
    )
    source.add_argument(
        "--rows", type=user_path, metavar="FILE", nargs="+", action="extend", help="LLaVA JSON or JSONL files"
    )
    how = parser.add_argument_group("how (each wins over the recipe)")
    where = parser.add_argument_group("where")
    # The destination of a flag that wins over the recipe is the recipe's key.
    for group, flag, metavar, key, kind, text in (
        (how, "--num-clusters", "K", "num_clusters", int, "number of clusters"),
        (how, "--seed", "S", "cluster_seed", int, "seed of k-means++"),
        (how, "--n-init", "N", "cluster_n_init", int, "restarts of k-means; the best is kept"),
        (how, "--encoder", "NAME", "cluster_encoder", user_path, "sentence encoder, a name or a folder"),
        (where, "--output", "DIR", "cluster_model", user_path, "cluster model folder"),
        (where, "--cache-dir", "DIR", "cluster_cache_dir", user_path, "where embeddings are kept"),
    ):
        default = _UNSET.get(key) or getattr(_DEFAULTS, key)
        group.add_argument(flag, metavar=metavar, dest=key, type=kind, help=f"{text} (default: {default})")
    how.add_argument(
        "--turns",
        choices=TURNS,
        dest="instruction_turns",
        help=f"human turns that route a row (default: {_DEFAULTS.instruction_turns})",
    )
    where.add_argument("--device", help="where the encoder runs (default: the GPU if there is one)")
    where.add_argument("--overwrite", action="store_true", help="replace another cluster model in the output folder")
    actions = parser.add_subparsers(dest="action", metavar="", title="choose K, or look at a result", prog=parser.prog)
    cluster_sweep.add_arguments(actions)
    inspect = actions.add_parser(
        "inspect",
        help="print sizes, cluster x dataset table and nearest instructions",
        description="Print a cluster model: sizes, cluster x dataset table, and the instructions nearest each centre.",
        epilog=_INSPECT_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    inspect.add_argument(
        "folder", type=user_path, metavar="DIR", help="a cluster model folder, or a checkpoint's clusters/ folder"
    )
    inspect.add_argument(
        "--examples", metavar="N", type=int, default=_EXAMPLES_SHOWN, help="instructions a cluster (default: 3)"
    )


def run(args: argparse.Namespace) -> int:
    from llava_mocle.cli.cluster_rows import cluster_rows
    from llava_mocle.cli.cluster_view import show
    from llava_mocle.clustering.cluster_files import ASSIGNMENTS_FILE
    from llava_mocle.clustering.embedding_cache import default_cache_dir
    from llava_mocle.recipe.values import normalized

    if args.action == "inspect":
        show(Path(args.folder), args.examples)
        return 0
    if args.action == "sweep":
        return cluster_sweep.run(args)
    found = cluster_rows(args.recipe, args.rows)
    settings = found.settings
    flags = {key: value for key in vars(settings) if (value := getattr(args, key, None)) is not None}
    given = {key: normalized("command line", key, value) for key, value in flags.items()}
    if args.cluster_model:
        # With another output folder, the recipe's table stays that of the recipe's clustering.
        given["cluster_assignments"] = None
    settings = dataclasses.replace(settings, **given)
    if settings.cluster_model is None:
        raise ConfigError("no output folder: give --output DIR, or `cluster_model` in the recipe")
    output = Path(settings.cluster_model)
    assignments = Path(settings.cluster_assignments or output / ASSIGNMENTS_FILE)
    cache_dir = Path(settings.cluster_cache_dir or default_cache_dir())
    _fit(found, settings, output, assignments, cache_dir, device=args.device, overwrite=args.overwrite)
    show(output, _EXAMPLES_SHOWN, assignments)
    return 0


def _fit(
    found: "ClusterRows",
    settings: ClusterArguments,
    output: Path,
    assignments: Path,
    cache_dir: Path,
    *,
    device: str | None,
    overwrite: bool,
) -> None:
    """Write the cluster model and the assignment tables, unless they are there already."""
    import time

    from llava_mocle.clustering.assign import assign_rows, read_table, write_assignments
    from llava_mocle.clustering.cluster_config import weigh
    from llava_mocle.clustering.cluster_files import CONFIG_FILE, HELD_OUT_FILE
    from llava_mocle.clustering.fitting import FitRequest, fitted_already
    from llava_mocle.clustering.instruction import InstructionRule
    from llava_mocle.clustering.training_distances import FIELD, of_assignments
    from llava_mocle.io.files import write_text
    from llava_mocle.io.folders import only_one
    from llava_mocle.model.placement import choose_placement

    started = time.perf_counter()
    rule = InstructionRule(settings.instruction_turns)
    flat, weights = found.instructions(rule)
    place, _ = choose_placement(device, None)
    request = FitRequest(
        weigh(flat, weights), settings.num_clusters, settings.cluster_seed, settings.cluster_n_init, rule,
        settings.cluster_encoder, place,
    )  # fmt: skip
    distinct = len(request.weight_of)
    print(f"{len(flat):,} rows of {len(found.rows)} datasets, {distinct:,} distinct instructions", flush=True)
    tables = {assignments: found.rows} | ({output / HELD_OUT_FILE: found.held_out} if found.held_out else {})

    def lacking(model: "ClusterModel") -> "dict[Path, Rows]":
        return {path: part for path, part in tables.items() if not _holds(path, part, model)}

    model, wrote = fitted_already(output, request), False
    if model is None or lacking(model) or FIELD not in model.config.fit:
        with only_one(output, "`llava-mocle cluster`"):
            model = fitted_already(output, request)  # another process may have written it in the meantime
            if model is None:
                model, wrote = _new_model(request, flat, weights, output, cache_dir, overwrite), True
            for path, part in lacking(model).items():
                if not wrote:
                    print(f"{output} already holds this clustering: reused; assigning the rows", flush=True)
                write_assignments(assign_rows(model, part, cache_dir=cache_dir), path)
                wrote = True
            if FIELD not in model.config.fit:  # an earlier release made the folder
                model.config.fit[FIELD] = of_assignments(read_table(assignments), found.rates)
                write_text(output / CONFIG_FILE, model.config.to_json())
                print(f"{output} already holds this clustering: added the quantiles of its distances", flush=True)
    what = f"wrote {output}" if wrote else f"{output} already holds this clustering of these rows: reused"
    print(f"{what} in {time.perf_counter() - started:.1f} s")


def _new_model(
    request: "FitRequest",
    texts: Sequence[str],
    weights: Sequence[float],
    output: Path,
    cache_dir: Path,
    overwrite: bool,
) -> "ClusterModel":
    """Fit a cluster model and write its folder."""
    from llava_mocle.clustering import cluster_files
    from llava_mocle.clustering.cluster_model import ClusterModel
    from llava_mocle.clustering.fitting import fitted_already

    cluster_files.check_writable(output, overwrite, f"This command asks for {request.describe()}. ")
    encoder = request.encoder
    print(f"encoder {encoder.name} at {encoder.folder}\nembedding cache {cache_dir}", flush=True)
    model = ClusterModel.fit(
        texts, request.num_clusters, weights=weights, seed=request.seed, n_init=request.n_init, rule=request.rule,
        encoder=encoder, cache_dir=cache_dir,
    )  # fmt: skip
    try:
        model.save(output, overwrite=overwrite)
    except ClusterModelError:  # on a file system without locks, another process may have been faster
        if fitted_already(output, request) is None:
            raise
    return model


def _holds(path: Path, rows: "Rows", model: "ClusterModel") -> bool:
    """Whether an assignment table is there, and is of these rows and this model."""
    from llava_mocle.clustering.assign import read_assignments

    try:
        read_assignments(path, rows, model)
    except (DataError, ClusterModelError):
        return False
    return True
