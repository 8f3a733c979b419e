"""iVQA: open questions on clips of instructional videos, five annotators each. A CSV with a header:

video_id,question,answer1,answer2,answer3,answer4,answer5
clip00000001,What is the man holding?,knife,knife,a knife,sharp knife,knife
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.vqa import accuracies, half_accuracy
from llava_mocle.evaluation.task import Item, Metric, Source, mean_metric
from llava_mocle.evaluation.tasks.shared.official_files import field, places, read_table
from llava_mocle.evaluation.tasks.shared.prompt_styles import short_question
from llava_mocle.evaluation.tasks.shared.video_qa import Frames, VideoTask, video_sources

FILE = "ivqa/test.csv"
ANNOTATORS = 5


class Ivqa(VideoTask):
    """Full credit for an answer that two of the five annotators gave, half for one."""

    name = "ivqa"
    title = "iVQA"
    split = "test"
    metric = "min(n / 2, 1) over 5 answers, VQA's normaliser (Yang et al., Just Ask, 2021)"
    folder = "ivqa"
    sources = (
        Source(FILE, "questions and answers", "github.com/antoyang/just-ask, iVQA"),
        *video_sources("ivqa", "the iVQA clips, named by their video_id (the authors' form)"),
    )

    def items_with_frames(self, root: Path, prompts: str, frames: Frames) -> list[Item]:
        """See `VideoTask`. Questions have no official id: the video's, with the number of the record."""
        path = root / FILE
        made = []
        for number, (place, record) in enumerate(places(path, read_table(path, delimiter=","))):
            video = field(record, "video_id", place)
            answers = [field(record, f"answer{annotator}", place) for annotator in range(1, ANNOTATORS + 1)]
            if not any(answers):
                raise DataError(f"{place}: no answer1 to answer{ANNOTATORS}, expected what the annotators said.")
            question = Question(
                question_id=f"{video}-{number}",
                prompt=short_question(field(record, "question", place), prompts),
                images=frames(path.parent, video),
                source=place,
            )
            made.append(Item(question, tuple(filter(None, answers))))
        return made

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        return {"accuracy": mean_metric(accuracies(half_accuracy, [item.reference for item in items], said))}
