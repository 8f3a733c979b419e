"""IconQA: questions about abstract diagrams; its multi-text-choice test questions.

problems.json: {"95436": {"question": "Which shape is this?", "choices": ["square", "circle"], "answer": 1,
                "unit": "", "ques_type": "choose_txt", "choice_type": "", "grade": "prek", "label": "S.2",
                "split": "test"}}
pid_splits.json: {"choose_txt_test": ["95436"], ...}
"""

from collections.abc import Iterator
from pathlib import Path

from llava_mocle.data.official_files import one_of
from llava_mocle.evaluation.task import Item, Source
from llava_mocle.evaluation.tasks.shared.multiple_choice import ChoiceTask, record_item, split_problems

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

    def read_items(self, root: Path, prompts: str) -> Iterator[Item]:
        folder = root / FOLDER
        for pid, place, problem in split_problems(folder, SPLIT):
            one_of(problem, "ques_type", place, "choose_txt")
            yield record_item(pid, problem, place, prompts, folder / "iconqa/test/choose_txt" / pid / "image.png")
