"""This project's own keys are at hand without torch and transformers."""

import subprocess
import sys

from llava_mocle.recipe.keys import GROUPS, OWN_KEYS, KeyGroups
from llava_mocle.recipe.recipe import Recipe


def test_keys_are_read_without_heavy_imports() -> None:
    program = (
        "import sys, llava_mocle.recipe.keys\nprint({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "set()"


def test_help_shows_every_key_of_ours_without_heavy_imports() -> None:
    program = (
        "import sys\n"
        "from llava_mocle.cli.main import main\n"
        "try:\n"
        "    main(['train', '--help'])\n"
        "except SystemExit:\n"
        "    pass\n"
        "print({'torch', 'transformers', 'peft', 'numpy'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().endswith("set()")
    assert [key for key in OWN_KEYS if f"--{key} " not in done.stdout] == []


def test_the_groups_are_listed_once() -> None:
    assert list(GROUPS) == list(KeyGroups.__dataclass_fields__) == list(Recipe.__dataclass_fields__)[: len(GROUPS)]
    assert len(set(OWN_KEYS)) == len(OWN_KEYS)
