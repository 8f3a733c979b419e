"""Train a recipe: stage 1 (the projector alone) or stage 2 (projector and adapter).

A recipe is a YAML file whose keys are the options below. Each is also a flag that wins over the file; the value `none`
unsets an optional key. Every field of transformers.TrainingArguments is accepted as well, such as --output_dir,
--learning_rate, --max_steps, --per_device_train_batch_size, --gradient_accumulation_steps, --gradient_checkpointing,
--bf16, --warmup_ratio, --save_steps, --eval_strategy, --report_to, --deepspeed. docs/keys.md lists all keys.
Relative paths start from the folder in which you run the command; a leading ~ is your home folder.

examples:
  llava-mocle train scripts/recipes/playground_mocle.yaml
  llava-mocle train scripts/recipes/llava_v1_5_7b_mocle.yaml --dry-run
  llava-mocle train my.yaml --adapter lora --output_dir runs/lora --lora_r 64
An interrupted run goes on from its newest checkpoint when it is started again.
"""

import argparse
import dataclasses
import logging
import textwrap
from typing import TYPE_CHECKING

from llava_mocle.errors import ConfigError
from llava_mocle.io.paths import user_path
from llava_mocle.recipe.keys import GROUPS
from llava_mocle.training.processes.early_signals import leaving_early, protect_tracker

if TYPE_CHECKING:
    from llava_mocle.recipe.recipe import Recipe

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    # Recipe keys are not declared here: `load_recipe` parses their flags, as a flag wins over the file's value.
    parser.set_defaults(takes_overrides=True)
    parser.usage = "llava-mocle train [RECIPE] [--dry-run] [--resolve FILE] [--KEY VALUE ...]"
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="look up all that the recipe names, print what would be trained, and stop; loads no weights",
    )
    parser.add_argument(
        "--resolve",
        type=user_path,
        metavar="FILE",
        help="write the recipe with all overrides in it to this file, and stop",
    )
    parser.add_argument(
        "--as-llava",
        action="store_true",
        help="take a command line of LLaVA's: flags left out have LLaVA's defaults, and --lora_enable True is LLaVA's "
        "LoRA (what `llava_mocle/train_mem.py` adds)",
    )
    parser.epilog = "\n\n".join(_describe(group) for group in GROUPS.values())


def _describe(group: type) -> str:
    """The keys of one group, as help text."""
    lines = [f"recipe keys: {(group.__doc__ or '').strip().rstrip('.')}"]
    for item in dataclasses.fields(group):
        default = "" if item.default in (None, "") else f" [{item.default}]"
        choices = item.metadata.get("choices")
        among = f" ({' | '.join(map(str, choices))})" if choices else ""
        text = textwrap.wrap(item.metadata["help"] + among + default, width=86)
        lines += [f"  --{item.name:<26} {text[0]}", *(f"{'':<31} {more}" for more in text[1:])]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    if args.resolve or args.dry_run:
        return _show(args)
    with leaving_early():
        protect_tracker()
        recipe = _recipe(args)
        from llava_mocle.training.run import train

        train(recipe)
    return 0


def _show(args: argparse.Namespace) -> int:
    if args.resolve and args.dry_run:
        raise ConfigError(
            f"--dry-run and --resolve {args.resolve} were given together, and each stops after its own; give one, then "
            "the other"
        )
    recipe = _recipe(args)
    if args.resolve:
        from llava_mocle.recipe.recipe import write_recipe

        write_recipe(recipe, args.resolve)
        if withheld := recipe.withheld():
            logger.warning(
                "%s: %s not written whole, as secrets are not; give them to the run as environment variables "
                "(HF_TOKEN, WANDB_API_KEY, COMET_API_KEY)",
                args.resolve, ", ".join(withheld),
            )  # fmt: skip
        return 0
    from llava_mocle.training.dry_run import dry_run

    shown = dry_run(recipe)
    print(shown.text, flush=True)
    shown.found.refuse()
    return 0


def _recipe(args: argparse.Namespace) -> "Recipe":
    from llava_mocle.recipe.recipe import load_recipe

    words = list(args.overrides)
    if args.as_llava:
        from llava_mocle.recipe.llava_flags import as_llava

        words = as_llava(words)
    path = words.pop(0) if words and not words[0].startswith("-") else None
    return load_recipe(path, words)
