"""Figures of one run: what its clusters hold, what its gates do, and whether its datasets pull in one direction.

Each figure is a PNG and an SVG, with the numbers behind it as CSV and a caption as text that says what to see.
Only `transfer`, and `experts` of a token or sentence router, load the base model; all others read the run's folder, in
seconds.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from llava_mocle.errors import ConfigError, UserError
from llava_mocle.io.paths import user_path

ALL, EXPERTS, TRANSFER = "all", "experts", "transfer"
FIGURES = {
    "tsne": "t-SNE of the instructions: colour = dataset, marker = cluster or task (Figure 4)",
    "clusters": "dataset x cluster: where each dataset's instructions fall (Figure 5)",
    EXPERTS: "dataset x expert, at one site and averaged over sites (Figure 6)",
    "universal": "weight of the universal expert for each dataset (Figure 7)",
    "examples": "sample instructions of every cluster: a table (Table 16)",
    "routing": "cluster x expert: chosen experts, and what the output is mixed of",
    "gates": "gate sharpness by depth: strongest probability and entropy",
    "use": "expert use, gates and overturned choices over the steps of training",
    "losses": "training loss, and held-out loss by dataset",
}
_OTHERS = {
    ALL: "each of the above that the run allows; says in a sentence why one is left out. The model is not loaded",
    TRANSFER: "negative-transfer probe: cosines between the datasets' gradients of what they share",
}
_EXAMPLES = """examples:
  llava-mocle analyze all runs/mine                        # every figure, into runs/mine/analysis
  llava-mocle analyze experts runs/mine --held-out runs/mine/eval --output figures
      the benchmarks that were answered with this run stand below a dotted line
  llava-mocle analyze experts runs/token --rows 128        # a token or sentence router: asks the model
  llava-mocle analyze tsne runs/mine --category charts=VQA --category scans=VQA --category notes=CAP
  llava-mocle analyze transfer runs/mine --batches 16      # do the datasets pull in one direction?
  llava-mocle analyze transfer my_recipe.yaml --adapter lora --lora_r 32
      before any training: on the base with a fresh LoRA; keys of the recipe may follow
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    width = max(map(len, FIGURES | _OTHERS))
    names = "\n".join(f"  {name:<{width}}  {text}" for name, text in (FIGURES | _OTHERS).items())
    parser.epilog = f"what there is (numbers of figures and tables are the paper's):\n{names}\n\n{_EXAMPLES}"
    parser.add_argument("what", choices=[*FIGURES, *_OTHERS], metavar="WHAT", help="one of those below")
    parser.add_argument(
        "run", type=user_path, metavar="RUN", help="a run's folder or a checkpoint; for transfer also a recipe"
    )
    parser.add_argument(
        "--output", type=user_path, metavar="DIR", help="where the files go (default: RUN/analysis; recipe: ./analysis)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn by chance (default: 0)")
    figures = parser.add_argument_group("single figures")
    figures.add_argument(
        "--held-out",
        type=user_path,
        nargs="+",
        action="extend",
        default=[],
        metavar="SOURCE",
        help="clusters, experts, universal: datasets that the run was not trained on: a folder that `llava-mocle eval` "
        "wrote for this run, or a file of LLaVA rows ([NAME=]FILE)",
    )
    figures.add_argument("--site", help="experts: the adapted linear to show (default: the middle one)")
    figures.add_argument(
        "--rows", type=int, default=64, metavar="N", help="experts of a token or sentence router: of each dataset (64)"
    )
    figures.add_argument(
        "--image-folder",
        type=user_path,
        default="",
        metavar="DIR",
        help="the same: the folder that the image paths of --held-out rows start from",
    )
    figures.add_argument("--instructions", type=int, default=100, metavar="N", help="tsne: of each dataset (100)")
    figures.add_argument(
        "--category", action="append", default=[], metavar="DATASET=WORD", help="tsne: the marker says its task"
    )
    figures.add_argument("--examples", type=int, default=5, metavar="N", help="examples: of each kind a cluster (5)")
    figures.add_argument("--encoder", type=user_path, metavar="DIR", help="the sentence encoder, if it has moved")
    probe = parser.add_argument_group(
        "transfer (keys of the recipe may follow, such as --bf16 true; so they may where experts loads the model)"
    )
    probe.add_argument("--batches", type=int, default=16, metavar="N", help="batches of each dataset (default: 16)")
    parser.set_defaults(takes_overrides=True)


def run(args: argparse.Namespace) -> int:
    if args.what == TRANSFER:
        return _transfer(args)
    if args.overrides and args.what != EXPERTS:
        raise ConfigError(
            f"unexpected words: {' '.join(args.overrides)}; keys of a recipe are for `analyze {TRANSFER}` and, with a "
            f"token or sentence router, `analyze {EXPERTS}`"
        )
    for flag in ("instructions", "examples", "rows"):
        if getattr(args, flag) < 1:
            raise ConfigError(f"--{flag} is {getattr(args, flag)}, expected at least 1")
    return _figures(args)


def _figures(args: argparse.Namespace) -> int:
    from llava_mocle.analysis.run.figures import MAKERS, FigureOptions
    from llava_mocle.analysis.run.folder import RunFolder
    from llava_mocle.io.folders import make_folder

    found = RunFolder(args.run, args.encoder)
    options = FigureOptions(
        output=Path(args.output or found.path / "analysis"),
        held_out=args.held_out,
        site=args.site,
        instructions=args.instructions,
        examples=args.examples,
        categories=_pairs(args.category),
        seed=args.seed,
        rows=args.rows,
        image_folder=args.image_folder,
        overrides=args.overrides,
        loads_model=args.what != ALL,
    )
    make_folder(options.output)
    if args.what != ALL:
        _say(MAKERS[args.what](found, options))
        return 0
    for name, make in MAKERS.items():
        try:
            _say(make(found, options))
        except UserError as error:
            print(f"{name}: left out: {error}", flush=True)
    return 0


def _say(path: Path) -> None:
    """Print the file and its caption, if it has one."""
    caption = path.with_suffix(".txt")
    print(path, flush=True)
    if caption.is_file():
        print(f"  {caption.read_text(encoding='utf-8').strip()}", flush=True)


def _pairs(words: Sequence[str]) -> Mapping[str, str]:
    """DATASET=WORD -> {dataset: word}."""
    pairs = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise ConfigError(f"--category {word}: expected DATASET=WORD, such as scans=VQA")
        pairs[name] = value
    return pairs


def _transfer(args: argparse.Namespace) -> int:
    from llava_mocle.analysis.training_point import load_point
    from llava_mocle.analysis.transfer.figure import plot_transfer
    from llava_mocle.analysis.transfer.probe import probe
    from llava_mocle.io.folders import make_folder

    source = Path(args.run)
    output = Path(args.output or (source / "analysis" if source.is_dir() else "analysis"))
    make_folder(output)
    point = load_point(source, args.overrides)
    path, sentences = plot_transfer(
        probe(point, args.batches, args.seed), output / "transfer.png", point.where, args.seed
    )
    print("\n".join([str(path), *sentences]))
    return 0
