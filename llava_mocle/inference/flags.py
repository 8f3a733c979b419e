"""Flags that every command which asks a model has, whatever it calls the others."""

import argparse
import math
from typing import Any

from llava_mocle.io.paths import user_path

Flags = argparse.ArgumentParser | argparse._ArgumentGroup


def add_other_base_flag(flags: Flags) -> None:
    """Add `--allow-other-base`."""
    flags.add_argument(
        "--allow-other-base",
        action="store_true",
        help="go on, with a warning, on another base than the checkpoint was trained on",
    )


def add_predictor_flags(flags: Flags) -> None:
    """Add what `Predictor.from_pretrained` takes, but model, base and template, which programs call differently."""
    flags.add_argument("--device", help="default: the GPU if there is one")
    flags.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    _add_quantization_flags(flags)
    add_other_base_flag(flags)
    flags.add_argument(
        "--vision-tower", type=user_path, help="for an original LLaVA folder: its CLIP tower, if it has moved"
    )
    flags.add_argument("--encoder", type=user_path, help="the cluster model's sentence encoder, if it has moved")
    _add_weighting_flags(flags)


def predictor_options(args: argparse.Namespace) -> dict[str, Any]:
    """What `add_predictor_flags` was given, as keywords of `Predictor.from_pretrained`."""
    return {
        "device": args.device,
        "dtype": args.dtype,
        "bits": args.bits,
        "allow_other_base": args.allow_other_base,
        "vision_tower": args.vision_tower,
        "encoder": args.encoder,
        "far_to_universal": args.far_to_universal,
        "soft_assignment": args.soft_assignment,
        "universal_beyond": args.ood_quantile if args.ood == "universal" else None,
    }


def _add_quantization_flags(flags: Flags) -> None:
    """Add LLaVA's `--load-8bit` and `--load-4bit`, as `bits`."""
    either = flags.add_mutually_exclusive_group()
    for bits in (8, 4):
        either.add_argument(
            f"--load-{bits}bit",
            dest="bits",
            action="store_const",
            const=bits,
            default=16,
            help=f"store the language model's linears in {bits} bit (pip install 'llava_mocle[qlora]')",
        )


def _add_weighting_flags(flags: Flags) -> None:
    """Add `--far-to-universal`, `--ood` and `--soft-assignment`."""
    flags.add_argument(
        "--far-to-universal",
        action="store_true",
        help="a prompt far from every cluster gives the universal expert more (95 %% of the training texts are nearer)",
    )
    flags.add_argument(
        "--ood",
        choices=["nearest", "universal"],
        default="nearest",
        help="who answers a prompt that is farther from every cluster than --ood-quantile of the training texts: the "
        "nearest cluster (default), or the universal expert alone",
    )
    flags.add_argument(
        "--ood-quantile",
        type=float,
        choices=[0.5, 0.9, 0.95, 0.99],
        default=0.95,
        help="which share of the training texts is no farther (default: 0.95)",
    )
    flags.add_argument(
        "--soft-assignment",
        type=_above_0,
        metavar="T",
        help="mix the gates of the two nearest clusters, in proportion to exp(-distance^2 / T)",
    )


def add_skip_flag(flags: Flags) -> None:
    """Add `--skip-unaskable`."""
    flags.add_argument(
        "--skip-unaskable",
        action="store_true",
        help="a question that is too long, or whose image cannot be read, gets an empty answer (default: an error)",
    )


def add_penalty_flags(flags: Flags, joint: str = "-", default: float | None = 1.0) -> None:
    """Add `--length-penalty` and `--repetition-penalty`.

    Args:
        joint: what stands between the words of a flag: LLaVA's programs have an underscore.
        default: of both; None leaves the choice to whoever reads them.
    """
    flags.add_argument(
        f"--length{joint}penalty",
        type=_finite,
        default=default,
        metavar="P",
        help="with beams: the power of the length that log-probabilities are divided by; below 1 favours short answers",
    )
    flags.add_argument(
        f"--repetition{joint}penalty",
        type=_above_0,
        default=default,
        metavar="P",
        help="above 1: what the answer holds already becomes less likely",
    )


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text}: expected a finite number")
    return value


def _above_0(text: str) -> float:
    if (value := _finite(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")
    return value
