"""Export a trained MoCLE model for inference engines: one folder, a bundle, that `llava-mocle serve` routes to.

An engine knows nothing of clusters. It gets the base with the trained projector in it, and each cluster as a plain
LoRA, which a request names. routing.json says which. Exact, but for rounding to --dtype and for --rank.

formats:
  vllm     base and adapters; also for engines that read PEFT's LoRA folders as vLLM does
  sglang   the same, with zeros where SGLang takes several modules together and one of them is adapted
  gguf     for llama.cpp, without images; needs: pip install 'llava_mocle[gguf]'
  merged   one whole model a cluster, for engines without LoRA; K times the size of the base

The bundle is loaded again at the end, and must answer as the model does. It appears only if that is so.

examples:
  llava-mocle export --model runs/mine --output bundles/mine
  llava-mocle export --model runs/mine --output bundles/small --rank 64 --dtype bfloat16
  llava-mocle export --model runs/mine --output bundles/two --format merged --clusters 0 2
"""

import argparse
from typing import TYPE_CHECKING

from llava_mocle.export.formats import FORMATS
from llava_mocle.inference.flags import add_other_base_flag
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.export.bundle import Bundle
    from llava_mocle.export.self_check import Difference


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=user_path, required=True, help="a trained MoCLE checkpoint folder")
    parser.add_argument(
        "--output", type=user_path, required=True, help="a folder to create; an existing one is never overwritten"
    )
    parser.add_argument("--format", choices=FORMATS, default="vllm", help="default: vllm")
    parser.add_argument(
        "--clusters",
        type=int,
        nargs="+",
        metavar="C",
        help="the clusters to export, counted from 0 (datasets of a model routed by dataset); default: all",
    )
    parser.add_argument(
        "--rank",
        type=int,
        metavar="R",
        help="make adapters smaller: the nearest of rank R, by singular values; says what that loses",
    )
    parser.add_argument(
        "--dtype",
        choices=["float32", "bfloat16", "float16"],
        help="of all weights; default: the base's",
    )
    parser.add_argument("--base", type=user_path, help="base folder, if the one named in the checkpoint has moved")
    parser.add_argument(
        "--vision-tower", type=user_path, help="for an original LLaVA folder: its CLIP tower, if it has moved"
    )
    parser.add_argument("--encoder", type=user_path, help="the cluster model's sentence encoder, if it has moved")
    add_other_base_flag(parser)


def run(args: argparse.Namespace) -> int:
    from llava_mocle.export.request import Export
    from llava_mocle.export.run import export

    bundle, differences = export(
        Export(
            model=args.model,
            output=args.output,
            format=args.format,
            clusters=args.clusters,
            rank=args.rank,
            dtype=args.dtype,
            base=args.base,
            vision_tower=args.vision_tower,
            encoder=args.encoder,
            allow_other_base=args.allow_other_base,
        )
    )
    print(f"{bundle.manifest.model_id} -> {args.output} ({bundle.manifest.format}, {bundle.manifest.dtype})")
    _print_truncation(bundle)
    _print_check(bundle, differences)
    if not bundle.manifest.sees_images:
        print("This bundle answers text alone: llama.cpp's files hold the language model, and no vision tower.")
    print(f"\nIn {args.output}, start the engine:\n{bundle.manifest.command}")
    return 0


def _print_truncation(bundle: "Bundle") -> None:
    for name, lost in bundle.manifest.truncation.items():
        if not lost.total:
            continue  # its rank is no larger
        worst = max(lost.sites, key=lambda site: lost.sites[site])
        print(
            f"{name}: rank {bundle.manifest.ranks[name]} loses {lost.total:.2%} in the Frobenius norm "
            f"(most at {worst}: {lost.sites[worst]:.2%}; every site is in bundle.json)"
        )


def _print_check(bundle: "Bundle", differences: "dict[str, Difference]") -> None:
    from llava_mocle.export.bundle import BASE_NAME

    if not differences:
        print("self-check: the adapters' files hold the weights that they should; only llama.cpp can run them")
        return
    parts = [f"{name} {difference.error:.1e}" for name, difference in differences.items() if name != BASE_NAME]
    effects = [difference.effect for name, difference in differences.items() if name != BASE_NAME]
    print(
        f"self-check: loaded again, no weight missing or left over. Of an adapter's effect on the logits, this part "
        f"is off: {', '.join(parts)}. The effects are {min(effects):.1%} to {max(effects):.1%} of the base's logits."
    )
