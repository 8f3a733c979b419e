"""What is declared about a recipe key besides its type: one declaration, from which checks and docs are derived."""

from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any, Literal

# "same": the key decides what is trained, so a resumed run must have the same value. "free": it says how to run, log or
# save. "data": it says where rows and clusters lie; their digests are compared. If the checkpoint has no digests, the
# value must be the same.
Resume = Literal["same", "free", "data"]


@dataclass(frozen=True)
class Range:
    """The numbers that a key takes.

    Attributes:
        low, high: the least and the greatest; None: no limit.
        above: `low` itself is too little.
        below: `high` itself is too much.
    """

    low: float | None = None
    high: float | None = None
    above: bool = False
    below: bool = False

    def holds(self, value: float) -> bool:
        if self.low is not None and (value < self.low or (self.above and value == self.low)):
            return False
        return self.high is None or value < self.high or (value == self.high and not self.below)

    def words(self) -> str:
        """As a message says it: "from 1", "above 0 and below 1"."""
        low = None if self.low is None else f"{'above' if self.above else 'from'} {self.low}"
        high = None if self.high is None else f"{'below' if self.below else 'to'} {self.high}"
        return (
            " and ".join(filter(None, (low, high))) if self.above or self.below else " ".join(filter(None, (low, high)))
        )


FROM_0, FROM_1, ABOVE_0 = Range(0), Range(1), Range(0, above=True)
SHARE = Range(0, 1)
# numpy and torch take no other seeds.
SEED = Range(0, 2**32 - 1)


@dataclass(frozen=True)
class Policy:
    """How a recipe treats one key.

    Attributes:
        resume: whether it may change between a run and its resumption.
        excludes: another key for the same setting. Both in one file, or both as flags, are an error; a flag takes the
            place of the other key in the file. Declared on one of the two.
        belongs_to: the key that this one refines. A flag that takes that key's place drops this one too.
        clustering: the name of this setting in the cluster model's config.json; None: it is not about clustering.
        refused: why a value other than the default is refused, and what to do instead.
        secret: never written into a file, never printed.
        path: a text is a path (or may be one): a leading `~` becomes the home folder when the recipe is read.
        numbers: the numbers that it takes; None: any that fits its type.
        adapters: the kinds of adapters that it does something with; None: all. With others it is left at its default.
    """

    resume: Resume
    excludes: str | None = None
    belongs_to: str | None = None
    clustering: str | None = None
    refused: str | None = None
    secret: bool = False
    path: bool = False
    numbers: Range | None = None
    adapters: tuple[str, ...] | None = None


def option(
    default: Any, help: str, *, resume: Resume, choices: tuple[str | int, ...] | None = None, **policy: Any
) -> Any:
    """A dataclass field that is a recipe key.

    Args:
        help: shown by `--help` and in docs/keys.md.
        choices: the values it takes, if only some.
        resume, policy: the fields of its `Policy`.
    """
    metadata: dict[str, Any] = {"help": help, "policy": Policy(resume, **policy)}
    if choices:
        metadata["choices"] = list(choices)
    return field(default=default, metadata=metadata)


same = partial(option, resume="same")
free = partial(option, resume="free")
by_content = partial(option, resume="data")


def declared(group: type) -> dict[str, Policy]:
    """Key -> policy of the fields of a dataclass that were made with `option`."""
    return {item.name: item.metadata["policy"] for item in fields(group) if "policy" in item.metadata}
