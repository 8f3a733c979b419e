"""MMBench: multiple choice in twenty abilities; a question is right where it is so under all rotations of its options.

A TSV with the columns index, question, hint, A, B, C, D, answer, category, image (base64), source, l2-category,
comment, split. The published dev file holds the rotations: rows 1000241, 2000241, ... are those of row 241. An option
that is missing is written as nothing, or as nan; the others keep their letters. "None" is a text like any other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.data.official_files import field, places, read_table, whole_number
from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.mmbench import MATCHERS
from llava_mocle.evaluation.metrics.options import circular_correct
from llava_mocle.evaluation.prompt_styles import OPTION_LETTER
from llava_mocle.evaluation.task import Answers, Files, Item, Metric, Source, mean_metric
from llava_mocle.evaluation.tasks.shared.base64_images import expected_image, unpack_image
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, choice_item

LETTERS = "ABCD"
ROTATION = 1_000_000  # added to the index for each rotation
ORIGIN = "download.openmmlab.com/mmclassification/datasets/mmbench"
MISSING = ("", "nan")
Unpacker = Callable[[str, Path, str], Path]  # base64 text, where to, place for messages -> the image's file


class MMBench(ChoiceTask):
    """CircularEval accuracy; read without a language model's help, which MMBench's server adds.

    Attributes:
        matcher: the version of MMBench's own reading of an answer, a key of `MATCHERS`. Published numbers are by 2024.
    """

    name = "mmbench"
    title = "MMBench"
    split = "dev_20230712"
    metric = "CircularEval: accuracy over questions that are right under all rotations (Liu et al., MMBench, 2023)"
    scorers: ClassVar[tuple[str, ...]] = tuple(f"VLMEvalKit {matcher}" for matcher in MATCHERS)
    matcher = "2024"
    letter_decides = True
    # A question's rotations may be routed to several clusters.
    cluster_metric: ClassVar[str | None] = "vanilla"
    official_n: ClassVar[int | None] = 4377
    file: ClassVar[str] = "mmbench/mmbench_dev_20230712.tsv"
    suffix: ClassVar[str] = OPTION_LETTER
    sources: ClassVar[tuple[Source, ...]] = (Source(file, "questions, options and images", ORIGIN),)

    def read_items(self, root: Path, prompts: str, image: Unpacker = unpack_image) -> Iterator[Item]:
        """Images are unpacked into a folder beside the file. Rotations that the file lacks are made."""
        path = root / self.file
        rows = list(places(path, read_table(path)))
        if not rows:
            raise DataError(f"{path}: no rows; fetch the file again.")
        rotated = _holds_rotations(rows)
        for place, record in rows:
            for index, row in _rotations(record, place, rotated=rotated):
                beside = path.with_suffix("") / f"{index % ROTATION}.jpg"
                yield self._item(index, row, place, prompts, image(field(row, "image", place), beside, place))

    def unshown_items(self, root: Path, prompts: str = "llava") -> list[Item]:
        return list(self.read_items(root, prompts, lambda encoded, path, place: path))

    def count(self, root: Path) -> int:
        """Rotations count, and no image is unpacked."""
        return sum(1 for _ in self.read_items(root, "llava", expected_image))

    def _item(self, index: int, row: Mapping[str, Any], place: str, prompts: str, image: Path) -> Item:
        asked, hint = field(row, "question", place), _text(field(row, "hint", place))
        if hint.strip().lower() == "none":  # LLaVA asks without it
            hint = ""
        options = [row[letter] for letter in LETTERS]
        while options and not options[-1]:
            options.pop()
        keys = {k: row.get(k) for k in _SHEET_KEYS}
        return choice_item(
            index,
            f"{hint}\n{asked}" if hint else asked,
            options,
            field(row, "answer", place),
            images=(image,),
            place=place,
            prompts=prompts,
            rewrite=lambda prompt: prompt.replace(OPTION_LETTER, self.suffix),
            keys={"group": index % ROTATION, "ability": row.get("l2-category"), "row": keys},
        )

    def option(self, text: str, options: Sequence[str]) -> int | None:
        return MATCHERS[self.matcher](text, options)

    def scorer(self, items: Sequence[Item]) -> str:
        return f"VLMEvalKit {self.matcher}"

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """`vanilla` is the accuracy of the questions as they first stand.

        A question counts for `circular` only if all its rotations were asked; in a part of the benchmark some may be
        missing.
        """
        right = [bool(value) for value in self.right(items, said)]
        groups: dict[int, list[bool]] = {}
        abilities: dict[str, list[int]] = {}
        for item, correct in zip(items, right, strict=True):
            if item.keys["group"] not in groups and item.keys["ability"]:
                abilities.setdefault(item.keys["ability"], []).append(item.keys["group"])
            groups.setdefault(item.keys["group"], []).append(correct)
        whole = {item.keys["group"]: sum(bool(item.keys["row"][letter]) for letter in LETTERS) for item in items}
        circular = circular_correct({group: turns for group, turns in groups.items() if len(turns) == whole[group]})
        first = [
            float(value) for value, item in zip(right, items, strict=True) if int(item.question.question_id) < ROTATION
        ]
        metrics = {"circular": mean_metric(list(circular.values())), "vanilla": mean_metric(first)}
        for ability, members in sorted(abilities.items()):
            metrics[f"circular_{ability}"] = mean_metric([circular[group] for group in members if group in circular])
        return metrics

    def submission_files(self, items: Sequence[Item], answers: Answers) -> Files:
        """The spreadsheet that MMBench's server takes, with LLaVA's columns."""
        rows = []
        for item, answer in zip(items, answers, strict=True):
            row = {"index": item.question.question_id, **item.keys["row"]}
            row["prediction"] = answer["text"]
            if item.question.candidates:
                row["prediction"] = LETTERS[self.read(item, answer) or 0]
            rows.append({key: row[key] for key in ("index", "question", *LETTERS, "prediction", "answer", "split")})
        return {f"{Path(self.file).stem}.xlsx": rows}


class MMBenchCN(MMBench):
    """MMBench in Chinese, with LLaVA's Chinese request for a letter."""

    name = "mmbench_cn"
    title = "MMBench-CN"
    split = "dev_cn_20231003"
    official_n = 4329
    file = "mmbench_cn/mmbench_dev_cn_20231003.tsv"
    suffix = "\n请直接回答选项字母。"
    sources = (Source(file, "questions, options and images", ORIGIN),)


_SHEET_KEYS = ("question", *LETTERS, "answer", "split")


def _text(value: str | None) -> str:
    """A cell's text, "" where it is missing."""
    return "" if value is None or value.strip().lower() in MISSING else value


def _index(record: Mapping[str, Any], place: str) -> int:
    return whole_number(record, "index", place)


def _holds_rotations(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> bool:
    return any(_index(record, place) >= ROTATION for place, record in rows)


def _rotations(record: Mapping[str, Any], place: str, rotated: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """(index, row) of the row itself, and of its rotations where the file has none of its own."""
    index, answer = _index(record, place), field(record, "answer", place)
    options = {letter: _text(field(record, letter, place)) for letter in LETTERS}
    # The texts are rotated among the letters that have one.
    letters = [letter for letter in LETTERS if options[letter]]
    for turn in range(1 if rotated else max(1, len(letters))):
        source = dict(zip(letters, letters[turn:] + letters[:turn], strict=True))
        moved = options | {letter: options[source[letter]] for letter in letters}
        gold = next((letter for letter in letters if source[letter] == answer), answer)
        yield index + turn * ROTATION, {**record, **moved, "answer": gold}
