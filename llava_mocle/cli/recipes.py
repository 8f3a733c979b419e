"""List the recipes and DeepSpeed configurations that ship, and copy one to change it.

  llava-mocle recipes                       list them
  llava-mocle recipes copy NAME [DIR]       copy one into DIR (default: the folder the command runs in)

`copy` brings along the files that a recipe names: DIR/NAME.yaml, DIR/zero_configs/... and so on. All relative paths in
a recipe, to read or to write, are relative to the folder that a command runs in, not to the recipe. So run the
commands in DIR, or write absolute paths.

examples:
  llava-mocle recipes copy llava_v1_5_7b_mocle work
  cd work && llava-mocle plan llava_v1_5_7b_mocle.yaml --gpus 8 --gpu a100-80
  llava-mocle recipes copy zero3 work       then: llava-mocle train RECIPE --deepspeed zero_configs/zero3.json
"""

import argparse
import json
from importlib import metadata
from pathlib import Path, PurePosixPath

# The folder of recipes in the repository; copies are written without it.
_RECIPES = "scripts/recipes/"
# Where a wheel installs the same files (`data-files` in pyproject.toml), below the environment's root.
_INSTALLED = "share/llava_mocle/"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    copy = actions.add_parser("copy", help="copy a recipe, with the files that it names", allow_abbrev=False)
    copy.add_argument("name", metavar="NAME", help="as `llava-mocle recipes` lists it")
    copy.add_argument("folder", nargs="?", default=".", metavar="DIR", help="where to (default: here)")


def run(args: argparse.Namespace) -> int:
    files = shipped_files()
    if args.action == "copy":
        for path in copy_recipe(args.name, Path(args.folder), files):
            print(path)
        return 0
    named = _named(files)
    width = max(map(len, named))
    for name, place in named.items():
        print(f"{name:<{width}}  {_about(files[place])}")
    return 0


def shipped_files() -> dict[str, Path]:
    """The recipes, what they name, and the DeepSpeed configurations: place in the repository -> file.

    Raises:
        AssetError: neither a checkout nor an installed wheel has them.
    """
    from llava_mocle.errors import AssetError

    root = Path(__file__).parents[2]
    found = [*root.glob(f"{_RECIPES}**/*.*"), *root.glob("zero_configs/*.json")]
    if found:
        return {path.relative_to(root).as_posix(): path for path in sorted(found)}
    installed = {}
    for file in metadata.files("llava_mocle") or ():
        _, inside, place = file.as_posix().partition(_INSTALLED)
        if inside:
            installed[place] = Path(str(file.locate()))
    if not installed:
        raise AssetError("this installation has no recipes; install llava_mocle again, or work in a checkout of it")
    return dict(sorted(installed.items()))


def copy_recipe(name: str, folder: Path, files: dict[str, Path]) -> list[Path]:
    """Copy a recipe or DeepSpeed configuration, and every shipped file that its text names. Returns the copies.

    Raises:
        ConfigError: there is none of that name, or a file in the way has another content; nothing is copied then.
    """
    from llava_mocle.errors import ConfigError
    from llava_mocle.io.files import write_text

    named = _named(files)
    place = named.get(name.removesuffix(".yaml").removesuffix(".json"))
    if place is None:
        raise ConfigError(f"no recipe {name!r} ships; expected one of {', '.join(named)}")
    text = files[place].read_text(encoding="utf-8")
    places = [place, *(other for other in files if other in text)]
    copies = {
        folder / other.removeprefix(_RECIPES): files[other].read_text(encoding="utf-8").replace(_RECIPES, "")
        for other in places
    }
    for path, content in copies.items():
        if path.exists() and path.read_text(encoding="utf-8") != content:
            raise ConfigError(f"{path}: there is a file of another content; move it away, or name another folder")
    for path, content in copies.items():
        write_text(path, content)
    return list(copies)


def _named(files: dict[str, Path]) -> dict[str, str]:
    """The names that a user gives -> place in the repository: recipes first, then DeepSpeed configurations."""
    recipes = [place for place in files if place.endswith(".yaml")]
    configurations = [place for place in files if place.startswith("zero_configs/")]
    return {PurePosixPath(place).stem: place for place in (*recipes, *configurations)}


def _about(path: Path) -> str:
    """A recipe's first comment, or what a DeepSpeed configuration does."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".yaml":
        return text.partition("\n")[0].removeprefix("# ")
    zero = json.loads(text)["zero_optimization"]
    offloads = ", optimizer and parameters offloaded to the CPU" if "offload_optimizer" in zero else ""
    on_cpus = ", for training on CPUs" if path.stem.endswith("_cpu") else ""
    return f"DeepSpeed, ZeRO stage {zero['stage']}{offloads}{on_cpus}"
