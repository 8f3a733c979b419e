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


def add_skip_flag(flags: Flags) -> None:
    """Add `--skip-unaskable`."""
    flags.add_argument(
        "--skip-unaskable",
        action="store_true",
        help="a question that is too long, or whose image cannot be read, gets an empty answer (default: an error)",
    )
