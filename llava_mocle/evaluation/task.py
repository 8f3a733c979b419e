"""What a benchmark is: where its files lie, which questions it asks, and how answers become scores."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import GenerationSettings, Question
from llava_mocle.evaluation.prompt_styles import check_style
from llava_mocle.evaluation.scores.statistics import bootstrap_interval
from llava_mocle.evaluation.submissions import write_submission

Answers = Sequence[Mapping[str, Any]]  # records of an answers file
Files = Mapping[str, Sequence[Any] | Mapping[str, Any]]  # file name -> content, see `write_submission`


@dataclass(frozen=True)
class Source:
    """A file or folder that a benchmark reads.

    Attributes:
        path: where it is expected, below the data root (LLaVA's playground/data/eval).
        what: what it is, in a few words.
        origin: who publishes it, and under which name.
        needed: False if only some of the scores need it.
    """

    path: str
    what: str
    origin: str
    needed: bool = True


@dataclass(frozen=True)
class Item:
    """One question with what its score needs.

    Attributes:
        question: what is asked. Its `candidates` make it one to be ranked.
        reference: the official answer(s), in the task's own shape.
        keys: what the task groups or breaks scores down by (subtask, image, category ...).
    """

    question: Question
    reference: Any
    keys: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """One number of a benchmark, on the scale in which the literature gives it.

    Attributes:
        value, interval: None where nothing was scored. The interval is a 95 % bootstrap interval.
        n: items that it is taken over.
        items: one value an item in the order of the items, where the metric is their mean; for paired comparisons.
    """

    value: float | None
    interval: tuple[float, float] | None
    n: int
    items: tuple[float, ...] | None = None


@dataclass(frozen=True)
class Scores:
    """The metrics of one run of a benchmark.

    Attributes:
        headline: the name of the metric that tables show.
        metrics: name -> metric, the headline first.
        unparsed: how many answers could not be read (see `Task.read`).
    """

    headline: str
    metrics: Mapping[str, Metric]
    unparsed: int = 0


def mean_metric(values: Sequence[float]) -> Metric:
    """The mean of one value an item, in percent."""
    if not values:
        return Metric(None, None, 0, ())
    low, high = bootstrap_interval(values)
    return Metric(100.0 * float(np.mean(values)), (100.0 * low, 100.0 * high), len(values), tuple(map(float, values)))


def resampled_metric(items: ArrayLike, statistic: Callable[[np.ndarray], float]) -> Metric:
    """A metric in percent that is no mean of items (F1, AUC, a ratio of sums), with its bootstrap interval.

    Args:
        items, statistic: see `bootstrap_interval`. A row is what is drawn together.
    """
    rows = np.asarray(items)
    if not len(rows):
        return Metric(None, None, 0)
    low, high = bootstrap_interval(rows, statistic)
    return Metric(100.0 * float(statistic(rows)), (100.0 * low, 100.0 * high), len(rows))


def accuracy_by(items: Sequence[Item], values: Sequence[float], key: str, parts: Sequence[str]) -> dict[str, Metric]:
    """`accuracy_<part>` for each of `parts`: the mean of the values of the items whose `key` is that part."""
    pairs = list(zip(items, values, strict=True))
    return {
        f"accuracy_{part.replace('/', '_')}": mean_metric([value for item, value in pairs if item.keys[key] == part])
        for part in parts
    }


class Task(ABC):
    """One benchmark. A subclass says where its files lie, and how they become questions and scores.

    What a method overrides without a docstring of its own means what is said here.

    Attributes:
        name: as on the command line, and of its folder of results.
        title: as in tables.
        split: which part of the benchmark.
        metric: the headline metric in words, with its source.
        sources: the files it reads.
        max_new_tokens: longest answer.
        official_n: how many questions `items` makes of the official files; None: not known.
        older_n: how many it makes of older versions of these files for which results are also published.
        parts: key of items -> its values that get an accuracy of their own (see `metrics`).
        cluster_metric: the metric that is given for each cluster, where the headline makes no sense on a part of the
            questions; None: the headline.
        scorers: the names that `scorer` gives, the usual one first.
        unparsed_as: what an answer counts as for which `read` gives None.
    """

    name: str
    title: str
    split: ClassVar[str]
    metric: ClassVar[str]
    sources: ClassVar[tuple[Source, ...]]
    max_new_tokens: ClassVar[int] = 16
    official_n: ClassVar[int | None] = None
    older_n: ClassVar[tuple[int, ...]] = ()
    parts: ClassVar[Mapping[str, Sequence[str]]] = {}
    cluster_metric: ClassVar[str | None] = None
    scorers: ClassVar[tuple[str, ...]] = ("",)
    unparsed_as: ClassVar[str] = "wrong"

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """The questions in the official order.

        Args:
            root: the data root that `sources` start from.
            prompts: "llava" (LLaVA's suffixes) or "instructblip" (the paper's Table 11).

        Raises:
            DataError: a file is missing, of another split, or damaged.
            ValueError: another style of prompts.
        """
        check_style(prompts)
        return list(self.read_items(root, prompts))

    def unshown_items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """`items` of which nobody looks at the images: none is unpacked, and few have to be there."""
        return self.items(root, prompts)

    def generation(self, prompts: str) -> GenerationSettings:
        """How answers are generated, where nobody asks for something else.

        With "instructblip", as LAVIS does by default (blip2_vicuna_instruct.py): 5 beams and a repetition penalty of
        1.5; short answers have at most 10 tokens and a length penalty of 0 (`predict_answers`), longer ones 1
        (`generate`).
        """
        usual = GenerationSettings(self.max_new_tokens)
        if prompts != "instructblip":
            return usual
        beams = replace(usual, num_beams=5, repetition_penalty=1.5)
        short = self.max_new_tokens <= Task.max_new_tokens
        return replace(beams, max_new_tokens=10, length_penalty=0.0) if short else beams

    @abstractmethod
    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        """What `items` lists, one by one."""

    def published_n(self, n: int) -> int | None:
        """The published number to compare `n` with: `n` itself if it is an older version's, else `official_n`."""
        return n if n in self.older_n else self.official_n

    def count(self, root: Path) -> int:
        """How many questions `items` would make: everything is read, and nothing written.

        Raises:
            DataError: see `items`.
        """
        return len(self.items(root))

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """What an answer (a record of an answers file) says, in the form that `metrics` takes.

        None where it says nothing that can be scored: the answer is then wrong, and counts as unparsed. By default
        this is the text, and None where the text is blank.
        """
        return answer["text"] if answer["text"].strip() else None

    def value(self, item: Item, said: Any) -> float:
        """How right an answer is, from 0 to 1; `said` is what `read` gave, and not None."""
        raise NotImplementedError(f"{type(self).__name__} defines none of `value`, `metrics` and `score`")

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """Name -> metric, the headline first; `said` is what `read` gave for each item.

        By default `accuracy`, the mean of `value`, and `accuracy_<part>` for all `parts`.
        """
        values = [0.0 if what is None else self.value(item, what) for item, what in zip(items, said, strict=True)]
        metrics = {"accuracy": mean_metric(values)}
        for key, parts in self.parts.items():
            metrics |= accuracy_by(items, values, key, parts)
        return metrics

    def score(self, items: Sequence[Item], answers: Answers) -> Scores:
        """Score answers: records of an answers file, one an item, in the items' order."""
        said = [self.read(item, answer) for item, answer in zip(items, answers, strict=True)]
        metrics = self.metrics(items, said)
        return Scores(next(iter(metrics)), metrics, unparsed=sum(value is None for value in said))

    def scorer(self, items: Sequence[Item]) -> str:
        """The name of the scorer that the metrics follow, where there are several, or where it has changed; else "".

        Scores by two scorers are not compared, since metrics of the same name then mean two things.
        """
        return self.scorers[0]

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """What the benchmark's server takes; nothing by default."""
        return {}

    def submission(self, items: Sequence[Item], answers: Answers, folder: Path) -> list[Path]:
        """Write `submission_files` into `folder`, and return their paths."""
        return [write_submission(folder / name, what) for name, what in self.submission_files(items, answers).items()]

    def judged_by(self, items: Sequence[Item]) -> dict[str, Any] | None:
        """What two runs' grades must share to compare; None where no judge grades them (see `JudgedTask`)."""
        return None

    def missing(self, root: Path) -> list[Source]:
        """The sources that are not there."""
        return [source for source in self.sources if not (root / source.path).exists()]

    def check(self, root: Path) -> None:
        """
        Raises:
            DataError: names every needed file that is missing, and where it comes from.
        """
        lacking = [source for source in self.missing(root) if source.needed]
        if lacking:
            lines = "".join(f"\n  {root / source.path}: {source.what}, from {source.origin}" for source in lacking)
            raise DataError(
                f"{self.name}: {len(lacking)} of its files are missing:{lines}\n"
                f"`llava-mocle eval prepare {self.name}` checks the layout; docs/evaluation.md describes it."
            )
