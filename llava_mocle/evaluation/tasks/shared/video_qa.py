"""What the tasks on videos share; and MSVD-QA and MSRVTT-QA: one answer a question, in the files of Xu et al. (2017).

[{"answer": "cook", "id": 39001, "question": "what is a man doing?", "video_id": 1451}]
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.evaluation.answering.run import Question
from llava_mocle.evaluation.metrics.exact import vqa_match
from llava_mocle.evaluation.metrics.vqa import normalize_vqa
from llava_mocle.evaluation.task import Item, Metric, Source, Task, mean_metric
from llava_mocle.evaluation.tasks.shared.frames import FRAMES, expected_frames, video_frames
from llava_mocle.evaluation.tasks.shared.official_files import ID, field, places, read_json
from llava_mocle.evaluation.tasks.shared.prompt_styles import short_question

KINDS = ("what", "who", "how", "when", "where")
VIDEO_FOLDERS = ("frames", "videos")
Frames = Callable[[Path, str], tuple[Path, ...]]  # a folder and a video's name -> the video's frames


class VideoTask(Task):
    """A task on videos: their frames or the videos themselves are needed, one of the two.

    Attributes:
        folder: below the data root; frames and videos are in it.
    """

    folder: ClassVar[str]

    @abstractmethod
    def items_with_frames(self, root: Path, prompts: str, frames: Frames) -> list[Item]:
        """`items`, with the frames that `frames` gives."""

    def items(self, root: Path, prompts: str = "llava") -> list[Item]:
        """See `Task`. Frames are read from videos where there are only these."""
        return self.items_with_frames(root, prompts, video_frames)

    def count(self, root: Path) -> int:
        """See `Task`. No video is read, only looked for."""
        return len(self.items_with_frames(root, "llava", expected_frames))

    def missing(self, root: Path) -> list[Source]:
        """See `Task`. Where there are frames or videos (or frames kept from videos), neither is missing."""
        lacking = super().missing(root)
        places = [root / self.folder / name for name in (*VIDEO_FOLDERS, f"frames_{FRAMES}")]
        if any(place.exists() for place in places):
            lacking = [source for source in lacking if Path(source.path).name not in VIDEO_FOLDERS]
        return lacking


def video_sources(folder: str, origin: str) -> tuple[Source, Source]:
    """Frames and videos, of which a `VideoTask` needs one."""
    frames, videos = (f"{folder}/{name}" for name in VIDEO_FOLDERS)
    return (
        Source(frames, "frames, one folder of images a video (or the videos)", f"extracted from {origin}"),
        Source(videos, f"videos, of which {FRAMES} frames are read with PyAV (or the frames)", origin),
    )


class ExactVideoTask(VideoTask):
    """MSVD-QA or MSRVTT-QA: exact match after VQA's normaliser, of all questions and by their first word."""

    metric = "exact match after VQA's normaliser (Xu et al., Video Question Answering, 2017)"

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """See `Task`: the text, where VQA's normaliser leaves something of it."""
        return answer["text"] if normalize_vqa(answer["text"]) else None

    def metrics(self, items: Sequence[Item], said: Sequence[Any]) -> dict[str, Metric]:
        """See `Task`."""
        right = [vqa_match(text or "", item.reference) for item, text in zip(items, said, strict=True)]
        metrics = {"accuracy": mean_metric(right)}
        for kind in KINDS:
            part = [value for item, value in zip(items, right, strict=True) if item.keys["kind"] == kind]
            metrics[f"accuracy_{kind}"] = mean_metric(part)
        return metrics


def video_items(path: Path, video_name: Callable[[str | int, str], str], prompts: str, frames: Frames) -> list[Item]:
    """Items of a questions file; `video_name` gives the name of a `video_id`'s video, below the file's folder."""
    found: dict[str, tuple[Path, ...]] = {}
    made = []
    for place, record in places(path, read_json(path)):
        name = video_name(field(record, "video_id", place, ID), place)
        if name not in found:
            found[name] = frames(path.parent, name)
        text = field(record, "question", place, str)
        question = Question(
            field(record, "id", place, ID), short_question(text, prompts), images=found[name], source=place
        )
        first = text.split(maxsplit=1)[0].lower() if text.split() else ""
        made.append(Item(question, field(record, "answer", place, str), {"kind": first}))
    return made
