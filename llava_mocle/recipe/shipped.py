"""The recipes and DeepSpeed configurations that ship, in a checkout and in an installed wheel."""

from importlib import metadata
from pathlib import Path

# The folder of recipes in the repository.
RECIPES = "scripts/recipes/"
# Where a wheel installs the same files (`data-files` in pyproject.toml), below the environment's root.
_INSTALLED = "share/llava_mocle/"


def shipped_files() -> dict[str, Path]:
    """The recipes, what they name, and the DeepSpeed configurations: place in the repository -> file.

    Empty where this is neither a checkout nor an installed wheel.
    """
    root = Path(__file__).parents[2]
    found = [*root.glob(f"{RECIPES}**/*.*"), *root.glob("zero_configs/*.json")]
    if found:
        return {path.relative_to(root).as_posix(): path for path in sorted(found)}
    installed = {}
    for file in metadata.files("llava_mocle") or ():
        _, inside, place = file.as_posix().partition(_INSTALLED)
        if inside:
            installed[place] = Path(str(file.locate()))
    return dict(sorted(installed.items()))
