"""What a dataset's format says of itself, and what it makes."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.errors import DataError

Row = dict[str, Any]


@dataclass(frozen=True)
class OfficialFile:
    """A file or folder that people fetch themselves.

    Attributes:
        name: its path inside `--source`; a glob is allowed, such as "data/train-*.parquet".
        place: where people get it, in words.
        size: in words, such as "147 MB", or why it is not known.
        license: its name, or what its page says instead.
        form: files of one form belong together, where a release can be had in several forms. "" belongs to every form.
        needed: False for a file that is used if it is there, such as that of the test split.
    """

    name: str
    place: str
    size: str
    license: str
    form: str = ""
    needed: bool = True

    def paths(self, source: Path) -> list[Path]:
        """What is there, sorted by name; nothing where it is missing."""
        if any(letter in self.name for letter in "*?["):
            return sorted(source.glob(self.name))
        path = source / self.name
        return [path] if path.exists() else []


@dataclass(frozen=True)
class OfficialRows:
    """How many rows an official release has.

    Attributes:
        counts: one number, or one for each version of the release; empty where it is not known.
        stated_by: who says so, or why it is not known.
    """

    counts: tuple[int, ...]
    stated_by: str


@dataclass(frozen=True)
class MakeOptions:
    """What a user can choose.

    Attributes:
        variants: rows made of one sample, each with a template of its own; only for formats with `uses_variants`.
        seed: of the choice of templates.
    """

    variants: int = 1
    seed: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A record of which no row is made.

    Attributes:
        reason: a few words that complete "left out: ...". Records with the same reason are counted together.
        official: whether the number of rows of the official release counts it: not so for records of another split or
            language.
    """

    reason: str
    official: bool = True


NO_IMAGE = LeftOut("its image is not there")
NO_ANSWER = LeftOut("its answer is empty")
NO_QUESTION = LeftOut("its question is empty")
IN_TEST = LeftOut("the test split asks the same of the same image")


@dataclass(frozen=True)
class Asked:
    """A question about an image, by which a row of a test split is found.

    Attributes:
        image: the SHA-256 of its file's bytes: a release may hold one image under several names.
        question: the question as the rows have it; capitals and white space do not count.
    """

    image: bytes
    question: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "question", plain(self.question))


def plain(question: str) -> str:
    """A question in which capitals and white space do not count."""
    return " ".join(question.casefold().split())


class Format(ABC):
    """One dataset.

    Attributes:
        name: what `llava-mocle data make NAME` takes; rows carry it as `dataset`.
        summary: one line.
        files: what has to be fetched.
        rows: how many rows the official release has.
        task_group: the kind of task, for the analysis; rows carry it.
        uses_variants: whether `MakeOptions` changes anything.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    files: ClassVar[tuple[OfficialFile, ...]]
    rows: ClassVar[OfficialRows]
    task_group: ClassVar[str]
    uses_variants: ClassVar[bool] = False

    @abstractmethod
    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        """LLaVA rows of the official training split, in the order of the official files.

        Ids are unique and stable: the same record gets the same id, whatever else is left out. `dataset` and
        `task_group` are added by whoever writes the rows.

        Args:
            source: the folder with the official files; the needed ones of one form are there.
            images: the folder that the rows' image paths are relative to; images are placed there.

        Raises:
            DataError: an official file is damaged, or of another version.
        """

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        """The questions of the official test split, where its file lies in `source` too; none by default."""
        return iter(())

    def form(self, source: Path) -> str:
        """The first form whose needed files are all in `source`.

        Raises:
            DataError: there is none; names what is missing of the form that lacks the fewest files.
        """
        forms = list(dict.fromkeys(file.form for file in self.files if file.form)) or [""]
        lacking = {form: self._missing(source, form) for form in forms}
        for form, files in lacking.items():
            if not files:
                return form
        nearest = min(lacking.values(), key=len)
        raise DataError(
            f"{source}: lacks {', '.join(file.name for file in nearest)} of {self.name}; "
            f"`llava-mocle data make {self.name}` says where each file comes from."
        )

    def _missing(self, source: Path, form: str) -> list[OfficialFile]:
        wanted = [file for file in self.files if file.needed and file.form in ("", form)]
        return [file for file in wanted if not file.paths(source)]

    def paths(self, source: Path, name: str) -> list[Path]:
        """What is there of the official file with this name."""
        return next(file for file in self.files if file.name == name).paths(source)


class Joined(Format):
    """Several formats' rows in one file, one format after the other.

    Attributes:
        parts: (folder inside `--source`, format); "" where the files lie in `--source` itself.
    """

    parts: ClassVar[tuple[tuple[str, Format], ...]]

    def __init_subclass__(cls) -> None:
        cls.files = tuple(
            dataclasses.replace(file, name=f"{folder}/{file.name}" if folder else file.name)
            for folder, part in cls.parts
            for file in part.files
        )
        cls.task_group = ""
        counts = [part.rows.counts for _, part in cls.parts]
        totals = [0]
        for choices in counts:
            totals = [total + count for total in totals for count in choices]
        cls.rows = OfficialRows(tuple(totals), "; ".join(dict.fromkeys(part.rows.stated_by for _, part in cls.parts)))
        cls.uses_variants = any(part.uses_variants for _, part in cls.parts)

    def form(self, source: Path) -> str:
        for folder, part in self.parts:
            part.form(source / folder)
        return ""

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        for folder, part in self.parts:
            for row in part.make(source / folder, images, options):
                yield row if isinstance(row, LeftOut) else named(row, part)

    def asked_in_test(self, source: Path) -> Iterator[Asked]:
        for folder, part in self.parts:
            yield from part.asked_in_test(source / folder)


def named(row: Row, form: Format) -> Row:
    """A row with the `dataset` and `task_group` of its format, unless it has its own."""
    return {"id": row.get("id"), "dataset": form.name, "task_group": form.task_group, **row}
