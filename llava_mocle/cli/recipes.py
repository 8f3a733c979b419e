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
from pathlib import Path, PurePosixPath

from llava_mocle.io.paths import user_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    copy = actions.add_parser("copy", help="copy a recipe, with the files that it names", allow_abbrev=False)
    copy.add_argument("name", metavar="NAME", help="as `llava-mocle recipes` lists it")
    copy.add_argument("folder", type=user_path, nargs="?", default=".", metavar="DIR", help="where to (default: here)")


def run(args: argparse.Namespace) -> int:
    from llava_mocle.errors import AssetError
    from llava_mocle.recipe.shipped import shipped_files

    files = shipped_files()
    if not files:
        raise AssetError("this installation has no recipes; install llava_mocle again, or work in a checkout of it")
    if args.action == "copy":
        for path in copy_recipe(args.name, Path(args.folder), files):
            print(path)
        return 0
    named = _named(files)
    width = max(map(len, named))
    for name, place in named.items():
        print(f"{name:<{width}}  {_about(files[place])}")
    return 0


def copy_recipe(name: str, folder: Path, files: dict[str, Path]) -> list[Path]:
    """Copy a recipe or DeepSpeed configuration, and every shipped file that its text names. Returns the copies.

    Raises:
        ConfigError: there is none of that name, or a file in the way has another content; nothing is copied then.
    """
    from llava_mocle.errors import ConfigError
    from llava_mocle.io.files import write_text
    from llava_mocle.recipe.shipped import RECIPES

    named = _named(files)
    place = named.get(name.removesuffix(".yaml").removesuffix(".json"))
    if place is None:
        raise ConfigError(f"no recipe {name!r} ships; expected one of {', '.join(named)}")
    text = files[place].read_text(encoding="utf-8")
    places = [place, *(other for other in files if other in text)]
    copies = {
        folder / other.removeprefix(RECIPES): files[other].read_text(encoding="utf-8").replace(RECIPES, "")
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
