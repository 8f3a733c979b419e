"""Serve a trained model at an OpenAI endpoint that routes every request to its cluster, with a page to look at.

Either this program answers by itself, or an engine such as vLLM does, with this program in front of it as its router.

examples:
  llava-mocle serve --model runs/mine
  llava-mocle serve --bundle exported/mine --upstream http://127.0.0.1:8001
"""

import argparse
import os
from typing import TYPE_CHECKING

from llava_mocle.cli.model_flags import add_model_flags, load_predictor
from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import user_path

if TYPE_CHECKING:
    from llava_mocle.serving.backend import Backend
    from llava_mocle.serving.metrics import Metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=user_path, help="a trained checkpoint; this program answers by itself")
    what.add_argument(
        "--bundle", type=user_path, help="what `llava-mocle export` wrote; the engine at --upstream answers"
    )
    engine = parser.add_argument_group("an engine behind this server (with --bundle)")
    engine.add_argument("--upstream", metavar="URL", help="the engine's address, such as http://127.0.0.1:8001")
    engine.add_argument("--engine", choices=["vllm", "sglang", "llamacpp"], help="default: what the bundle is for")
    engine.add_argument(
        "--upstream-key-file",
        type=user_path,
        metavar="FILE",
        help="the engine's bearer key (or the environment variable LLAVA_MOCLE_UPSTREAM_KEY)",
    )
    _add_front_flags(parser.add_argument_group("the server"))
    own = parser.add_argument_group("the model (with --model; --encoder and --ood with --bundle too)")
    own.add_argument("--max-batch", type=_above_0, default=16, metavar="N", help="answers worked out together (16)")
    add_model_flags(own)


def _add_front_flags(front: argparse._ArgumentGroup) -> None:
    front.add_argument("--host", default="127.0.0.1", help="default: 127.0.0.1, which this machine alone reaches")
    front.add_argument("--port", type=int, default=8000, help="default: 8000; 0 chooses a free one")
    front.add_argument(
        "--api-key-file",
        type=user_path,
        metavar="FILE",
        help="what clients must send as a bearer key (or the environment variable LLAVA_MOCLE_API_KEY)",
    )
    front.add_argument("--no-api-key", action="store_true", help="let other machines in without a key")
    front.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="a site whose pages may ask this server, such as https://example.org; may be repeated",
    )
    front.add_argument("--no-page", action="store_true", help="leave the page at / out")
    front.add_argument("--max-requests", type=_above_0, default=64, metavar="N", help="at once; more get a 503 (64)")
    front.add_argument("--max-body-mib", type=_above_0, default=32, metavar="MIB", help="of one request (32)")
    front.add_argument("--max-images", type=_above_0, default=8, metavar="N", help="in one request (8)")
    front.add_argument("--max-image-mib", type=_above_0, default=16, metavar="MIB", help="of one image (16)")
    front.add_argument("--max-pixels", type=_above_0, default=40_000_000, metavar="N", help="of one image (40000000)")
    front.add_argument("--max-side", type=_above_0, default=8192, metavar="N", help="pixels of an image's side (8192)")
    front.add_argument("--max-text", type=_above_0, default=200_000, metavar="N", help="characters (200000)")
    front.add_argument("--max-tokens", type=_above_0, default=4096, metavar="N", help="of one answer (4096)")
    front.add_argument("--timeout", type=_above_0, default=300, metavar="S", help="seconds for one request (300)")
    front.add_argument(
        "--drain", type=_above_0, default=60, metavar="S", help="seconds for the last answers after SIGTERM (60)"
    )


def run(args: argparse.Namespace) -> int:
    try:
        from llava_mocle.serving.front import Settings, create_app
        from llava_mocle.serving.metrics import Metrics
        from llava_mocle.serving.question import Limits
        from llava_mocle.serving.server import UPSTREAM_KEY_VARIABLE, bind, check_open, read_key
        from llava_mocle.serving.server import run as run_server
    except ImportError as error:
        raise ConfigError(f"serving needs more packages ({error}): pip install 'llava_mocle[serve]'") from error

    if (args.bundle is None) != (args.upstream is None):
        raise ConfigError("--bundle and --upstream go together: the bundle, and the address of the engine that has it")
    key = read_key(args.api_key_file)
    check_open(args.host, key, args.no_api_key)
    upstream_key = read_key(args.upstream_key_file, UPSTREAM_KEY_VARIABLE)
    place = bind(args.host, args.port)
    settings = Settings(
        key=key,
        origins=args.cors_origin,
        limits=Limits(
            body=args.max_body_mib << 20,
            images=args.max_images,
            image_bytes=args.max_image_mib << 20,
            pixels=args.max_pixels,
            side=args.max_side,
            text=args.max_text,
            tokens=args.max_tokens,
        ),
        most_requests=args.max_requests,
        answer_seconds=args.timeout,
        with_page=not args.no_page,
    )
    metrics = Metrics()
    backend = _backend(args, upstream_key, metrics)
    app = create_app(backend, settings, metrics)

    def ready(url: str) -> None:
        page = "" if args.no_page else f"; the page is at {url}/"
        print(f"serving {backend.model_id} at {url}/v1{page}", flush=True)

    run_server(app, backend, place, args.drain, ready)
    return 0


def _backend(args: argparse.Namespace, upstream_key: str | None, metrics: "Metrics") -> "Backend":
    if args.model is not None:
        from llava_mocle.serving.own_engine import OwnEngine

        predictor = load_predictor(args)
        return OwnEngine(predictor, max_batch=args.max_batch, watch=metrics.note_batch)
    from llava_mocle.export.bundle import Bundle
    from llava_mocle.serving.upstream import Upstream

    bundle = Bundle.open(args.bundle)
    recorded = bundle.routing.ood
    if args.ood == "universal" and recorded is not None and recorded.quantile != args.ood_quantile:
        raise ConfigError(
            f"--ood-quantile is {args.ood_quantile:g}, and {args.bundle} has the distance for {recorded.quantile:g}: "
            "leave the option out"
        )
    return Upstream(
        bundle,
        args.upstream,
        engine=args.engine,
        ood=args.ood,
        key=upstream_key,
        encoder=None if args.encoder is None else os.fspath(args.encoder),
        seconds=args.timeout,
    )


def _above_0(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number above 0")
    return value
