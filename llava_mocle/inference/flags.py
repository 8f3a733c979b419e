"""Flags that every command which asks a model has, whatever it calls the others."""

import argparse

Flags = argparse.ArgumentParser | argparse._ArgumentGroup


def add_other_base_flag(flags: Flags) -> None:
    """Add `--allow-other-base`."""
    flags.add_argument(
        "--allow-other-base",
        action="store_true",
        help="go on, with a warning, on another base than the checkpoint was trained on",
    )


def add_quantization_flags(flags: Flags) -> None:
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


def add_skip_flag(flags: Flags) -> None:
    """Add `--skip-unaskable`."""
    flags.add_argument(
        "--skip-unaskable",
        action="store_true",
        help="a question that is too long, or whose image cannot be read, gets an empty answer (default: an error)",
    )
