"""Talk with a trained model in the terminal, and see for each question which cluster it takes.

example:
  llava-mocle chat --model runs/mine --image photo.jpg

What begins with / is a command: /image FILE, /cluster N (or /cluster auto), /temperature T, /length N, /again, /new,
/help, /quit. Ctrl-C stops an answer, and ends the program where there is none.
"""

import argparse

from llava_mocle.cli.model_flags import add_model_flags, load_predictor
from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=user_path, required=True, help="a trained checkpoint")
    parser.add_argument(
        "--image",
        type=user_path,
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE",
        help="images of the first question",
    )
    parser.add_argument("--system", help="a system text in place of the template's own")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy; otherwise sample")
    parser.add_argument("--top-p", type=float, default=1.0, help="with a temperature: nucleus sampling")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    import asyncio

    if not args.temperature >= 0 or not 0 < args.top_p <= 1 or args.max_new_tokens < 1:
        raise ConfigError(
            f"--temperature is {args.temperature:g}, --top-p {args.top_p:g}, --max-new-tokens {args.max_new_tokens}; "
            "expected at least 0, above 0 and at most 1, and at least 1"
        )
    from llava_mocle.serving.own_engine import OwnEngine
    from llava_mocle.serving.terminal import Terminal

    terminal = Terminal(
        system=args.system, temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_new_tokens
    )
    for image in args.image:  # before the model, which takes longer
        terminal.add_image(image)
    backend = OwnEngine(load_predictor(args))
    asyncio.run(terminal.talk(backend))
    return 0
