"""InstructBLIP's datasets: each sample is written with templates that a seed chooses.

A row is one sample with one template; its id names both. The first template of a sample depends on the seed and on
the sample alone, the second follows it, and so on: more variants keep the rows of fewer. Where several people
answered a question, a row gets the answer of one of them, drawn for this row: an answer's chance is how often it was
given. The text that routes a row is the whole request, as in the paper (section 3.1): rows have no `route_text`.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import ClassVar

from llava_mocle.data.conversation import ASSISTANT, HUMAN, IMAGE_TOKEN
from llava_mocle.data.formats.format import NO_ANSWER, NO_IMAGE, NO_QUESTION, Format, LeftOut, MakeOptions, Row
from llava_mocle.data.formats.instruction_templates import TEMPLATES, answer_prompt, caption_prompt, question_prompt
from llava_mocle.errors import ConfigError


@dataclass(frozen=True)
class Sample:
    """What an official file says of one image, before a template.

    Attributes:
        key: unique in its dataset and stable.
        image: path relative to the images folder; None where the image is missing.
        text: the caption or the question.
        answers: to the question, one an annotator.
        options: of a multiple-choice question.
        ocr_tokens: what was read in the image; None where the request does not say it.
    """

    key: str
    image: str | None
    text: str
    answers: Sequence[str] = ()
    options: Sequence[str] = ()
    ocr_tokens: Sequence[str] | None = None


class TemplatedFormat(Format):
    """One dataset under one group of templates; `task_group` names the group.

    Attributes:
        data_source: the dataset's name in the paper's Table 9; rows carry it.
    """

    data_source: ClassVar[str]
    uses_variants = True

    @abstractmethod
    def samples(self, source: Path, images: Path) -> Iterator[Sample | LeftOut]:
        """The samples of the official training split, in the order of the official files; places their images."""

    def make(self, source: Path, images: Path, options: MakeOptions) -> Iterator[Row | LeftOut]:
        """`options.variants` rows a sample, each with another template.

        Raises:
            ConfigError: more variants than the group has templates.
        """
        most = len(TEMPLATES[self.task_group])
        if options.variants > most:
            raise ConfigError(
                f"--variants is {options.variants}, expected at most {most}: {self.name} is written with the {most} "
                f"templates of {self.task_group}"
            )
        for sample in self.samples(source, images):
            if isinstance(sample, LeftOut):
                yield sample
            elif (reason := self._unusable(sample)) is not None:
                yield reason
            else:
                yield from self._rows(sample, options)

    def _unusable(self, sample: Sample) -> LeftOut | None:
        if sample.image is None:
            return NO_IMAGE
        captions = self.task_group in ("CAP", "OCRCAPS")
        if not sample.text.strip():
            return NO_ANSWER if captions else NO_QUESTION
        return None if captions or any(answer.strip() for answer in sample.answers) else NO_ANSWER

    def _rows(self, sample: Sample, options: MakeOptions) -> Iterator[Row]:
        templates = TEMPLATES[self.task_group]
        answers = [answer for answer in sample.answers if answer.strip()]
        # Only `random()` of Python's generator is promised to stay as it is, so everything is drawn with it.
        draw = Random(f"{options.seed}/{self.name}/{sample.key}").random
        order = sorted(range(len(templates)), key=[draw() for _ in templates].__getitem__)
        for number in order[: options.variants]:
            answer = answers[int(draw() * len(answers))] if answers else ""
            request, reply = _written(self.task_group, templates[number], sample, answer)
            yield {
                "id": f"{self.name}/{sample.key}/{number}",
                "image": sample.image,
                "conversations": [
                    {"from": HUMAN, "value": f"{IMAGE_TOKEN}\n{request}"},
                    {"from": ASSISTANT, "value": reply},
                ],
                "data_source": self.data_source,
                "template": number,
            }


def _written(group: str, template: str, sample: Sample, answer: str) -> tuple[str, str]:
    """(what the human asks, what the model has to say)."""
    if group == "VQG":
        return answer_prompt(template, answer), sample.text
    if group in ("VQA", "VQAMC"):
        return question_prompt(template, sample.text, sample.options), answer
    return caption_prompt(template, sample.ocr_tokens), sample.text
