"""Which model to run and where its parts are: the flags of every subcommand that answers."""

import argparse
from typing import TYPE_CHECKING

from llava_mocle.errors import RoutingError
from llava_mocle.inference.flags import Flags, add_other_base_flag, add_quantization_flags, add_weighting_flags
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor


def add_model_flags(parser: Flags) -> None:
    """Add `--device`, `--dtype` and the flags that replace a part which has moved."""
    parser.add_argument("--device", help="default: the GPU if there is one")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    add_quantization_flags(parser)
    parser.add_argument("--base", type=user_path, help="base folder, if the one named in the checkpoint has moved")
    add_other_base_flag(parser)
    parser.add_argument("--template", help="prompt template; default: the one that the model was trained with")
    parser.add_argument(
        "--vision-tower", type=user_path, help="for an original LLaVA folder: its CLIP tower, if it has moved"
    )
    parser.add_argument("--encoder", type=user_path, help="the cluster model's sentence encoder, if it has moved")
    add_weighting_flags(parser)


def load_predictor(args: argparse.Namespace) -> "Predictor":
    """The predictor that `--model` and these flags name."""
    from llava_mocle.inference import Predictor

    return Predictor.from_pretrained(
        args.model,
        device=args.device,
        dtype=args.dtype,
        bits=args.bits,
        base=args.base,
        template=args.template,
        vision_tower=args.vision_tower,
        encoder=args.encoder,
        allow_other_base=args.allow_other_base,
        far_to_universal=args.far_to_universal,
        soft_assignment=args.soft_assignment,
        universal_beyond=args.ood_quantile if args.ood == "universal" else None,
    )


def check_dataset(args: argparse.Namespace, predictor: "Predictor") -> None:
    """Refuse a --dataset that would change nothing.

    Raises:
        RoutingError: the model is not routed by dataset.
    """
    if args.dataset is not None and predictor.router != "dataset":
        known = {
            "cluster": "is routed by cluster",
            "token": "is routed by token",
            "sentence": "is routed by instruction",
        }
        routed = known.get(predictor.router, "routes nothing")
        raise RoutingError(
            f"--dataset is {args.dataset!r}, but {args.model} {routed}, so it would change nothing: leave it out."
        )
