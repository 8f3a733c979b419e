"""Try several numbers of clusters on the same instructions, and say which to start with.

For each K: the inertia, the silhouette (on a sample), and the paraphrase stability: the share of a question's
paraphrases, the question in every template of its kind (the paper's Table 10), that land in one cluster. The texts are
encoded once. Writes sweep.png, .svg, .csv and .txt.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.clustering.sweep import Sweep

_EXAMPLES = """examples:
  llava-mocle cluster sweep --recipe scripts/recipes/playground_mocle.yaml --num-clusters 4,16,64,256
  llava-mocle cluster sweep --rows llava_665k.json geo170k.json --num-clusters 4,8,16,32 --output figures
"""


def add_arguments(actions: Any) -> None:
    """Add the nested command to those of `llava-mocle cluster`."""
    parser = actions.add_parser(
        "sweep",
        help="try several K: inertia, silhouette, paraphrase stability, and advice",
        description=__doc__,
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", type=user_path, metavar="YAML", help="a recipe: its datasets and cluster settings")
    parser.add_argument("--rows", type=user_path, metavar="FILE", nargs="+", action="extend", help="or files of rows")
    parser.add_argument("--num-clusters", default="4,16,64,256", metavar="K,K...", help="default: 4,16,64,256")
    parser.add_argument(
        "--questions", type=int, default=200, metavar="N", help="questions to paraphrase, by chance (default: 200)"
    )
    parser.add_argument("--encoder", metavar="NAME", type=user_path, help="sentence encoder, a name or a folder")
    parser.add_argument("--seed", type=int, metavar="S", help="of k-means++ and of what is drawn by chance")
    parser.add_argument("--device", help="where the encoder runs (default: the GPU if there is one)")
    parser.add_argument("--cache-dir", metavar="DIR", type=user_path, help="where embeddings are kept")
    parser.add_argument(
        "--output", metavar="DIR", type=user_path, default="cluster_sweep", help="folder (default: cluster_sweep)"
    )


def run(args: argparse.Namespace) -> int:
    from llava_mocle.analysis.cluster_sweep import plot_sweep
    from llava_mocle.cli.cluster_rows import cluster_rows
    from llava_mocle.clustering.cluster_config import weigh
    from llava_mocle.clustering.embedding_cache import default_cache_dir
    from llava_mocle.clustering.encoder import SentenceEncoder
    from llava_mocle.clustering.instruction import InstructionRule
    from llava_mocle.clustering.sweep import advise, sweep
    from llava_mocle.io.folders import make_folder
    from llava_mocle.model.placement import choose_placement

    numbers = _numbers(args.num_clusters)
    if args.questions < 0:
        raise ConfigError(f"--questions is {args.questions}, expected 0 or more")
    found = cluster_rows(args.recipe, args.rows)
    make_folder(args.output)
    settings = found.settings
    seed = settings.cluster_seed if args.seed is None else args.seed
    weight_of = weigh(*found.instructions(InstructionRule(settings.instruction_turns)))
    groups = _paraphrased(list(weight_of), args.questions, seed)
    print(f"{len(weight_of):,} distinct instructions, {len(groups):,} questions to paraphrase", flush=True)
    place, _ = choose_placement(args.device, None)
    result = sweep(
        weight_of,
        groups,
        numbers,
        SentenceEncoder(args.encoder or settings.cluster_encoder, place),
        seed=seed,
        n_init=settings.cluster_n_init,
        cache_dir=Path(args.cache_dir or settings.cluster_cache_dir or default_cache_dir()),
    )
    _print(result)
    print(advise(result))
    print(plot_sweep(result, Path(args.output) / "sweep.png"))
    return 0


def _numbers(text: str) -> list[int]:
    """The Ks of the flag, such as "4,16,64"."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = [0]
    if min(numbers) < 1:
        raise ConfigError(f"--num-clusters is {text!r}, expected whole numbers from 1, such as 4,16,64")
    return numbers


def _paraphrased(instructions: Sequence[str], number: int, seed: int) -> list[list[str]]:
    """The paraphrases of up to `number` distinct questions, drawn by chance."""
    import numpy as np

    from llava_mocle.data.formats.paraphrases import content_of

    contents = {content for text in instructions if (content := content_of(text)) is not None}
    ordered = sorted(contents, key=lambda content: (content.kind, content.text))
    chosen = np.sort(np.random.default_rng(seed).permutation(len(ordered))[:number])
    return [ordered[place].paraphrases() for place in chosen]


def _print(found: "Sweep") -> None:
    from rich.table import Column, Table

    from llava_mocle.io.console import print_table, table_console

    heads = ("K", "inertia", "explained", "silhouette", "stability", "questions whole", "smallest cluster")
    table = Table(*(Column(head, justify="right") for head in heads))
    for point in found.points:
        table.add_row(
            str(point.num_clusters),
            f"{point.inertia:.6g}",
            f"{point.explained:.1%}",
            f"{point.silhouette:.3f}",
            f"{point.stability:.1%}",
            f"{point.whole:.1%}",
            f"{point.smallest:,.0f}",
        )
    print_table(table_console(), table)
