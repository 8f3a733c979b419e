"""IconQA: questions about abstract diagrams; its multi-text-choice test questions.

problems.json: {"95436": {"question": "Which shape is this?", "choices": ["square", "circle"], "answer": 1,
                "unit": "", "ques_type": "choose_txt", "choice_type": "", "grade": "prek", "label": "S.2",
                "split": "test"}}
pid_splits.json: {"choose_txt_test": ["95436"], ...}
"""

from pathlib import Path

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import Item, Source
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, choice_item
from llava_mocle.evaluation.tasks.shared.official_files import ID, TEXT_OR_NUMBER, field, read_json

FOLDER = "iconqa/iconqa_data"
SPLIT = "choose_txt_test"


class IconQA(ChoiceTask):
    """Accuracy over the options, not the ANLS that some papers give."""

    name = "iconqa"
    title = "IconQA"
    split = "multi-text-choice test"
    metric = "multiple-choice accuracy (Lu et al., IconQA, 2021)"
    sources = (
        Source(f"{FOLDER}/problems.json", "all problems", "github.com/lupantech/IconQA, iconqa_data.zip"),
        Source(f"{FOLDER}/pid_splits.json", "ids of each split", "the same archive"),
        Source(f"{FOLDER}/iconqa/test/choose_txt", "a folder with image.png a problem", "the same archive"),
    )
    official_n = 6316

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`."""
        folder = root / FOLDER
        problems = read_json(folder / "problems.json")
        made = []
        for pid in field(read_json(folder / "pid_splits.json"), SPLIT, str(folder / "pid_splits.json"), list[ID]):
            place = f"{folder / 'problems.json'}, problem {pid}"
            problem = field(problems, str(pid), str(folder / "problems.json"))
            kind = field(problem, "ques_type", place, str)
            if kind != "choose_txt":
                raise DataError(
                    f"{place}: field 'ques_type' is {kind!r}, expected 'choose_txt'; fetch the files again."
                )
            item = choice_item(
                str(pid),
                field(problem, "question", place, str),
                field(problem, "choices", place, list[TEXT_OR_NUMBER]),
                field(problem, "answer", place, int),
                images=(folder / "iconqa/test/choose_txt" / str(pid) / "image.png",),
                place=place,
                prompts=prompts,
            )
            made.append(item)
        return made
