"""Convert a checkpoint of another system. Nothing in its files is executed, and every weight is accounted for.

--released    the MoCLE checkpoints that the authors published (InstructBLIP + MoCLE): a `.pth` of LAVIS and a k-means
              become an adapter folder with its cluster model
"""

import argparse

from llava_mocle.io.paths import user_path

_EXAMPLES = """examples:
  llava-mocle convert --released c64_t005.pth --kmeans cluster64.pkl --base instructblip-vicuna-7b \\
      --temperature 0.05 --output runs/authors_c64
      --base is a folder of transformers' InstructBLIP. The temperature is asked for only where the file keeps none
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EXAMPLES
    source = parser.add_argument_group("what to convert (one of them)").add_mutually_exclusive_group(required=True)
    source.add_argument("--released", type=user_path, metavar="FILE", help="the authors' checkpoint, a .pth")
    parser.add_argument("--output", type=user_path, required=True, metavar="DIR", help="folder to create")
    parser.add_argument("--base", type=user_path, metavar="DIR", help="base")
    parser.add_argument("--kmeans", type=user_path, metavar="FILE", help="k")
    parser.add_argument("--temperature", type=float, metavar="T", help="tau")
    parser.add_argument("--encoder", type=user_path, metavar="DIR", help="enc")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.conversion.released import convert_released

    lines = convert_released(
        args.released, args.kmeans, args.base, args.output, temperature=args.temperature, encoder=args.encoder
    )
    print("\n".join(lines))
    return 0
