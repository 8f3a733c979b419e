"""`llava-mocle data make`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llava_mocle.io.paths import looked_for, user_path, why_missing

if TYPE_CHECKING:
    from llava_mocle.data.formats.format import Format
    from llava_mocle.data.formats.make import MadeRows


def add_parser(actions: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the action `make`."""
    from llava_mocle.data.formats.registry import FORMATS

    width = max(map(len, FORMATS))
    make = actions.add_parser(
        "make",
        help="LLaVA rows out of a dataset's official files",
        description="Write the LLaVA rows of a dataset's training split, out of its official files.\n"
        "Without --source it prints where to get each file, how large it is, and its license.",
        epilog="\n".join(["names:", *(f"  {name:<{width}}  {form.summary}" for name, form in FORMATS.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    make.add_argument("name", nargs="?", metavar="NAME", help="the dataset; the names stand below")
    make.add_argument("--source", type=user_path, metavar="DIR", help="the folder with the official files")
    make.add_argument("--output", type=user_path, metavar="FILE", help="the rows: .jsonl, or else one JSON list")
    make.add_argument(
        "--images",
        type=user_path,
        metavar="DIR",
        help="what the rows' image paths are relative to; images out of archives are written there, others are linked "
        "or copied unless they lie there already (default: images/ beside --output)",
    )
    make.add_argument("--variants", type=int, default=1, metavar="N", help="rows a sample, where templates are drawn")
    make.add_argument("--seed", type=int, default=0, metavar="N", help="of the templates that are drawn (default: 0)")
    make.set_defaults(make_help=make.format_help)


def make(args: argparse.Namespace) -> int:
    """Run the action.

    Returns:
        0: rows were written; 2: it was only told what to fetch.
    """
    from llava_mocle.data.formats.format import MakeOptions
    from llava_mocle.data.formats.make import make_rows
    from llava_mocle.data.formats.registry import FORMATS
    from llava_mocle.errors import ConfigError, DataError

    if args.name is None:
        print(args.make_help())
        return 2
    if args.name not in FORMATS:
        raise ConfigError(f"{args.name!r} is no dataset that can be made, expected one of: {', '.join(FORMATS)}")
    form = FORMATS[args.name]
    if not args.source:
        _print_files(form, None)
        return 2
    source = Path(args.source)
    if not source.is_dir():
        reason = why_missing(source) or "it is a file"
        raise ConfigError(
            f"--source {source}: {reason}{looked_for(source)}; expected the folder with the official files"
        )
    try:
        form.form(source)
    except DataError:
        _print_files(form, source)
        raise
    if not args.output:
        raise ConfigError("give --output FILE: where the rows go")
    if args.variants < 1:
        raise ConfigError(f"--variants is {args.variants}, expected at least 1")
    if args.variants > 1 and not form.uses_variants:
        raise ConfigError(f"--variants {args.variants}: {form.name} draws no templates; leave it out")
    output = Path(args.output)
    if output.is_dir():
        raise ConfigError(f"--output {output}: is a folder, expected a file; name one in it, such as {form.name}.json")
    if any(output.resolve() == path.resolve() for file in form.files for path in file.paths(source)):
        raise ConfigError(f"--output {output}: is one of the official files, which are kept; choose another")
    images = Path(args.images) if args.images else output.parent / "images"
    made = make_rows(form, source, images, output, MakeOptions(args.variants, args.seed))
    _print_counts(form, made, output, images)
    return 0


def _print_files(form: "Format", source: Path | None) -> None:
    """Where the files come from; with a source, which of them are there."""
    from rich.table import Table

    from llava_mocle.io.console import print_table, say, table_console

    table = Table(title=f"{form.name}: {form.summary}", title_justify="left")
    columns = ("file", "from", "size", "license", "state" if source else "")
    for column in filter(None, columns):
        table.add_column(column, no_wrap=column == "file")
    for file in form.files:
        notes = ([f"the {file.form} form"] if file.form else []) + ([] if file.needed else ["optional"])
        name = file.name + (f" ({', '.join(notes)})" if notes else "")
        cells = [name, file.place, file.size, file.license]
        if source:
            cells.append("there" if file.paths(source) else "MISSING" if file.needed else "missing")
        table.add_row(*cells)
    console = table_console()
    print_table(console, table)
    if any(file.form for file in form.files):
        say(console, "The files of one form are enough.")
    if source is None:
        say(console, f"Then: llava-mocle data make {form.name} --source DIR --output FILE")


def _print_counts(form: "Format", made: "MadeRows", output: Path, images: Path) -> None:
    print(f"{output}: {made.rows:,} rows with {made.images:,} images in {images}")
    for what, count in made.left_out.most_common():
        print(f"left out, {count:,}: {what.reason}")
    counts = form.rows.counts
    if counts and made.official not in counts:
        wanted = " or ".join(f"{count:,}" for count in counts)
        print(
            f"WARNING: the official files have {made.official:,} rows, expected {wanted} ({form.rows.stated_by}): cut "
            "off, or of another version?"
        )
