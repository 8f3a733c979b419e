"""Export one cluster of a MoCLE checkpoint as a plain LoRA adapter that PEFT loads without this package.

At inference the gates of a cluster are constants, so its task expert and the universal expert fold into one
LoRA of twice the rank. Exact in real arithmetic. The trained projector is inside, which inference engines such as
vLLM refuse: `llava-mocle export` writes what they read.

example:
  llava-mocle collapse --model runs/llava_v1_5_7b_mocle --cluster 2 --output exported/cluster_2
"""

import argparse

from llava_mocle.inference.flags import add_other_base_flag
from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=user_path, required=True, help="a trained MoCLE checkpoint folder")
    parser.add_argument(
        "--cluster",
        type=int,
        help="the cluster to export, counted from 0 (the dataset of a model routed by dataset); a plain LoRA has none",
    )
    parser.add_argument(
        "--output", type=user_path, required=True, help="a folder to create; an existing one is never overwritten"
    )
    parser.add_argument("--base", type=user_path, help="base folder, if the one named in the checkpoint has moved")
    add_other_base_flag(parser)


def run(args: argparse.Namespace) -> int:
    from llava_mocle.adapter import MocleConfig, collapse
    from llava_mocle.adapter.config import PEFT_TYPE
    from llava_mocle.errors import CheckpointError
    from llava_mocle.io.folders import refuse_to_overwrite
    from llava_mocle.io.jsonl import read_json
    from llava_mocle.model.folders import ADAPTER_CONFIG, detect_kind, find_folder
    from llava_mocle.model.load import load_model

    # What can be known without weights, first.
    refuse_to_overwrite(args.output)
    folder = find_folder(args.model, "a trained MoCLE checkpoint")
    if detect_kind(folder) != "adapter":
        raise CheckpointError(f"{args.model}: has no adapter to collapse; give a folder that holds adapter_config.json")
    if read_json(folder / ADAPTER_CONFIG).get("peft_type") == PEFT_TYPE:  # of others, `collapse` says what is wrong
        MocleConfig.from_pretrained(str(folder)).check_cluster(args.cluster)
    loaded = load_model(args.model, base=args.base, allow_other_base=args.allow_other_base)
    collapse(loaded.model, args.cluster, args.output)
    part = args.model if args.cluster is None else f"cluster {args.cluster} of {args.model}"
    print(f"{part} -> {args.output} (a plain LoRA adapter)")
    return 0
