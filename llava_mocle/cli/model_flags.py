"""Which model to run and where its parts are: the flags of every subcommand that answers."""

import argparse
from typing import TYPE_CHECKING

from llava_mocle.errors import RoutingError
from llava_mocle.inference.flags import Flags, add_predictor_flags, predictor_options
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.inference import Predictor


def add_model_flags(parser: Flags) -> None:
    """Add the flags that say how the model is loaded, and those that replace a part which has moved."""
    add_predictor_flags(parser)
    parser.add_argument("--base", type=user_path, help="base folder, if the one named in the checkpoint has moved")
    parser.add_argument("--template", help="prompt template; default: the one that the model was trained with")


def add_image_flag(parser: Flags, help: str) -> None:
    """Add `--image FILE ...`, which may be repeated."""
    parser.add_argument("--image", type=user_path, nargs="+", action="extend", default=[], metavar="FILE", help=help)


def load_predictor(args: argparse.Namespace) -> "Predictor":
    """The predictor that `--model` and these flags name."""
    from llava_mocle.inference import Predictor

    return Predictor.from_pretrained(args.model, base=args.base, template=args.template, **predictor_options(args))


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
