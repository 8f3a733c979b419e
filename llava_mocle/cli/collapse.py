"""Export one cluster of a MoCLE checkpoint as a plain LoRA adapter that any LoRA runtime serves.

At inference the gates of a cluster are constants, so its task expert and the universal expert fold into one
LoRA of twice the rank. Exact in real arithmetic.

example:
  llava-mocle collapse --model runs/llava_v1_5_7b_mocle --cluster 2 --output exported/cluster_2
"""

import argparse

from llava_mocle.cli.model_flags import add_other_base_flag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="a trained MoCLE checkpoint folder")
    parser.add_argument(
        "--cluster",
        type=int,
        help="the cluster to export, counted from 0 (the dataset of a model routed by dataset); a plain LoRA has none",
    )
    parser.add_argument("--output", required=True, help="a folder to create; an existing one is never overwritten")
    parser.add_argument("--base", help="base folder, if the one named in the checkpoint has moved")
    add_other_base_flag(parser)


def run(args: argparse.Namespace) -> int:
    from peft import PeftModel

    from llava_mocle.adapter import collapse
    from llava_mocle.errors import CheckpointError
    from llava_mocle.model.load import load_model

    loaded = load_model(args.model, base=args.base, allow_other_base=args.allow_other_base)
    if not isinstance(loaded.model, PeftModel):
        raise CheckpointError(f"{args.model}: has no adapter to collapse; give a folder that holds adapter_config.json")
    collapse(loaded.model, args.cluster, args.output)
    part = args.model if args.cluster is None else f"cluster {args.cluster} of {args.model}"
    print(f"{part} -> {args.output} (a plain LoRA adapter)")
    return 0
