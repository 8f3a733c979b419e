"""Write docs/keys.md, the page of all recipe keys, from their declarations: `python scripts/keys_page.py`."""

import dataclasses
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from llava_mocle.recipe.keys import GROUPS, OWN_KEYS
from llava_mocle.recipe.recipe import trainer_defaults
from llava_mocle.recipe.trainer_keys import MocleTrainingArguments, policies

PAGE = Path(__file__).resolve().parents[1] / "docs" / "keys.md"
_ON_RESUME = {"free": "yes", "same": "no", "data": "by content"}
_INTRODUCTION = """# Recipe keys

<!-- Written by `python scripts/keys_page.py` from the keys' declarations in llava_mocle/recipe/. Change them there. -->

Every key of a recipe is also a flag of `llava-mocle train`: `lora_r: 64` is `--lora_r 64`. How recipes work:
[training.md](training.md#recipes).

"On resume" says whether a run that goes on from a checkpoint may have another value than the run before. "By content"
means that the paths may change, but the rows and the cluster model must be the same. Keys that exclude each other are
two ways to say one thing: set one of them.
"""


def page() -> str:
    """The whole page, as Markdown."""
    parts = [_INTRODUCTION]
    for name, group in GROUPS.items():
        about = (group.__doc__ or "").strip()
        parts.append(f"## {name.capitalize()}\n\n{about}\n\n{_own_table(dataclasses.fields(group))}")
    parts.append(_transformers())
    return "\n".join(parts)


def _own_table(fields: Iterable["dataclasses.Field[Any]"]) -> str:
    rows = []
    for item in fields:
        choices = item.metadata.get("choices")
        among = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
        excluded = ", ".join(f"`{key}`" for key in _excluded_by(item.name))
        on_resume = _ON_RESUME[policies()[item.name].resume]
        rows.append((f"`{item.name}`", _shown(item.default), item.metadata["help"] + among, on_resume, excluded))
    return _table(("key", "default", "what it does", "on resume", "excludes"), rows)


def _excluded_by(key: str) -> list[str]:
    """The keys that may not be set beside this one."""
    own = policies()[key]
    pairs = {(name, policy.excludes) for name, policy in policies().items() if policy.excludes}
    found = {other for pair in pairs for one, other in (pair, pair[::-1]) if one in (key, own.belongs_to)}
    return sorted(found)


def _transformers() -> str:
    theirs = {item.name: item.default for item in dataclasses.fields(TrainingArguments)}
    changed, refused = [], []
    for item in dataclasses.fields(MocleTrainingArguments):
        if item.name in OWN_KEYS:
            continue
        policy = policies()[item.name]
        if policy.refused:
            refused.append((f"`{item.name}`", _shown(trainer_defaults()[item.name]), policy.refused))
        elif item.name not in theirs or item.default != theirs[item.name]:
            before = _shown(theirs[item.name]) if item.name in theirs else "(not there)"
            on_resume = _ON_RESUME[policy.resume]
            changed.append((f"`{item.name}`", _shown(item.default), before, item.metadata["help"], on_resume))
    pairs = [f"`{key}` and `{policy.excludes}`" for key, policy in policies().items() if policy.excludes]
    secrets = [f"`{key}`" for key, policy in policies().items() if policy.secret]
    return "\n".join(
        (
            "## Keys of transformers\n",
            "Every field of `transformers.TrainingArguments` is a key too; transformers documents them.\n",
            "### Another default, or added here\n",
            _table(("key", "default here", "in transformers", "what it does", "on resume"), changed),
            "### Refused\n",
            "Any value but the default would do nothing here, or the wrong thing.\n",
            _table(("key", "default", "why, and what to do"), refused),
            "### On resume\n",
            _listed("May have another value:", "free"),
            _listed("Must have the same value:", "same"),
            _wrapped(
                "The size of the global batch must stay the same: `per_device_train_batch_size` x "
                "`gradient_accumulation_steps` x processes."
            ),
            "### Excluding each other, and secret\n",
            _wrapped(f"Of each pair set one: {'; '.join(pairs)}."),
            _wrapped(
                "Secrets are never written into a checkpoint or a resolved recipe, and never printed: "
                f"{', '.join(secrets)}, and what is named a token, API key, password or secret inside a DeepSpeed "
                "configuration. Loggers take theirs from environment variables, such as `WANDB_API_KEY`."
            ),
        )
    )


def _listed(title: str, resume: str) -> str:
    keys = [key for key, item in policies().items() if item.resume == resume and not item.refused]
    names = ", ".join(f"`{key}`" for key in sorted(set(keys) - set(OWN_KEYS)))
    return _wrapped(f"{title} {names}.")


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, break_on_hyphens=False) + "\n"


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "unset"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
