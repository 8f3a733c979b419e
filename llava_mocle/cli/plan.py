"""Before paying for a node: memory a GPU, hours, and the command to start with, for a recipe and a kind of GPU.

No weights, no GPU and no network are needed: the model is built on the meta device. Keys of the recipe are flags
here as in `train`. Hours are estimates under assumptions that are printed; docs/plan.md says how far to trust them.

examples:
  llava-mocle plan scripts/recipes/llava_v1_5_7b_mocle.yaml --gpus 8 --gpu a100-80 --samples 1000000
  llava-mocle plan my.yaml --gpus 4 --gpu l40s --global-batch 128 --lora_r 64      (rows counted from my.yaml's data)
  llava-mocle plan my.yaml --gpus 8 --nodes 4 --gpu h100 --network-gbit 400 --mfu 0.3 --json plan.json
"""

import argparse

from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(takes_overrides=True)
    parser.usage = "llava-mocle plan RECIPE --gpus N --gpu NAME [--nodes M] [options] [--KEY VALUE ...]"
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="GPUs of a node")
    parser.add_argument(
        "--gpu",
        required=True,
        metavar="NAME",
        help="a100-40, a100-80, h100, h200, b200, l40s, a40, a6000, a10 or rtx4090",
    )
    parser.add_argument("--nodes", type=int, default=1, metavar="M", help="nodes; default: 1")
    parser.add_argument(
        "--mfu",
        type=float,
        default=0.4,
        help="share of the GPUs' dense BF16 peak that large micro-batches reach; small ones reach less (docs/plan.md); "
        "default: 0.4",
    )
    parser.add_argument(
        "--samples",
        type=int,
        metavar="N",
        help="samples of an epoch (rows x repeat); default: the recipe's rows, counted",
    )
    parser.add_argument(
        "--tokens-per-sample",
        type=float,
        metavar="N",
        help="average, image tokens included; default: estimated from the rows, or one image and 128 of text",
    )
    parser.add_argument(
        "--longest", type=int, metavar="N", help="tokens of the longest sample, for memory; default: model_max_length"
    )
    parser.add_argument(
        "--global-batch",
        type=int,
        metavar="N",
        help="samples of an optimizer step; default: the recipe's batch a GPU, times its accumulation, times the GPUs",
    )
    parser.add_argument(
        "--network-gbit",
        type=float,
        metavar="G",
        help="Gbit/s between nodes, of a whole node; default: that of the vendor's own system of eight (docs/plan.md)",
    )
    parser.add_argument("--json", type=user_path, metavar="FILE", help="write the numbers to this file as well")


def run(args: argparse.Namespace) -> int:
    import json

    from llava_mocle.errors import ConfigError
    from llava_mocle.io.console import table_console
    from llava_mocle.io.files import write_text
    from llava_mocle.planning.hardware import Cluster, find_gpu
    from llava_mocle.planning.plan import as_dict, make_plan
    from llava_mocle.planning.table import print_plan
    from llava_mocle.recipe.recipe import load_recipe

    words = list(args.overrides)
    if not words or words[0].startswith("-"):
        raise ConfigError("no recipe: name one first, as in `llava-mocle plan scripts/recipes/... --gpus 8 --gpu h100`")
    cluster = Cluster.of(find_gpu(args.gpu), args.gpus, args.nodes, args.network_gbit)
    plan = make_plan(
        load_recipe(words[0], words[1:]),
        cluster,
        mfu=args.mfu,
        samples=args.samples,
        tokens=args.tokens_per_sample,
        longest=args.longest,
        global_batch=args.global_batch,
        overrides=words[1:],
    )
    print_plan(plan, table_console())
    if args.json:
        write_text(args.json, json.dumps(as_dict(plan), indent=2) + "\n")
    return 0
