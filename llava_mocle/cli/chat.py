"""Talk with a trained model in the terminal, and see for each question which cluster it takes.

example:
  llava-mocle chat --model runs/mine --image photo.jpg

What begins with / is a command: /image FILE, /cluster N (or /cluster auto), /temperature T, /length N, /again, /new,
/help, /quit. Ctrl-C stops an answer, and ends the program where there is none.
"""

import argparse

from llava_mocle.cli.model_flags import add_image_flag, add_model_flags, load_predictor
from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=user_path, required=True, help="a trained checkpoint")
    add_image_flag(parser, "images of the first question")
    parser.add_argument("--system", help="a system text in place of the template's own")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 (default): greedy; otherwise sample")
    parser.add_argument("--top-p", type=float, default=1.0, help="with a temperature: nucleus sampling")
    parser.add_argument("--max-new-tokens", type=int, default=512)
    add_model_flags(parser)


def run(args: argparse.Namespace) -> int:
    import asyncio

    from llava_mocle.inference.generation import check_decoding
    from llava_mocle.serving.own_engine import OwnEngine
    from llava_mocle.serving.terminal import Terminal

    check_decoding(args.max_new_tokens, args.temperature, args.top_p)
    terminal = Terminal(
        system=args.system, temperature=args.temperature, top_p=args.top_p, max_tokens=args.max_new_tokens
    )
    for image in args.image:  # before the model, which takes longer
        terminal.add_image(image)
    backend = OwnEngine(load_predictor(args))
    asyncio.run(terminal.talk(backend))
    return 0
