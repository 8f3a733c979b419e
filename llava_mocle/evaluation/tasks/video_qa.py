"""MSVD-QA, MSRVTT-QA and iVQA: questions on video clips.

MSVD-QA and MSRVTT-QA: one answer a question, in the files of Xu et al. (2017); MSRVTT-QA's have `category_id` besides.

[{"answer": "cook", "id": 39001, "question": "what is a man doing?", "video_id": 1451}]

MSVD-QA's youtube_mapping.txt, a line: "a1B2c3D4e5F_5_15 vid1" (name of the clip, `video_id` with "vid" before it)

iVQA: instructional videos, five annotators a question. A CSV with a header:

video_id,question,answer1,answer2,answer3,answer4,answer5
clip00000001,What is the man holding?,knife,knife,a knife,sharp knife,knife
"""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

from llava_mocle.data.official_files import ID, field, json_records, places, read_table, read_text
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.metrics.exact import vqa_match
from llava_mocle.evaluation.metrics.vqa import half_accuracy, normalize_vqa
from llava_mocle.evaluation.prompt_styles import short_question
from llava_mocle.evaluation.task import Item, Source, Task
from llava_mocle.evaluation.tasks.shared.frames import FRAMES, expected_frames, video_frames

MSVD_FILE = "msvd_qa/test_qa.json"
MSVD_MAPPING = "msvd_qa/youtube_mapping.txt"
MSVD_ORIGIN = "github.com/xudejing/video-question-answering, MSVD-QA"
MSRVTT_FILE = "msrvtt_qa/test_qa.json"
IVQA_FILE = "ivqa/test.csv"
ANNOTATORS = 5  # of iVQA
VIDEO_FOLDERS = ("frames", "videos")
Frames = Callable[[Path, str], tuple[Path, ...]]  # a folder and a video's name -> the video's frames


class VideoTask(Task):
    """A task on videos: their frames or the videos themselves are needed, one of the two.

    Attributes:
        folder: below the data root; frames and videos are in it.
    """

    folder: ClassVar[str]

    @abstractmethod
    def read_items(self, root: Path, prompts: str, frames: Frames = video_frames) -> Iterator[Item]:
        """By default, frames are read from videos where there are only these."""

    def unshown_items(self, root: Path, prompts: str = "llava") -> list[Item]:
        return list(self.read_items(root, prompts, lambda folder, video: ()))

    def count(self, root: Path) -> int:
        """No video is read, only looked for."""
        return sum(1 for _ in self.read_items(root, "llava", expected_frames))

    def missing(self, root: Path) -> list[Source]:
        """Where there are frames or videos (or frames kept from videos), neither is missing."""
        lacking = super().missing(root)
        if any((root / self.folder / name).exists() for name in (*VIDEO_FOLDERS, f"frames_{FRAMES}")):
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
    parts: ClassVar = {"kind": ("what", "who", "how", "when", "where")}

    def read(self, item: Item, answer: Mapping[str, Any]) -> Any:
        """The text, where VQA's normaliser leaves something of it."""
        return answer["text"] if normalize_vqa(answer["text"]) else None

    def value(self, item: Item, said: Any) -> float:
        return vqa_match(said, item.reference)


class MsvdQa(ExactVideoTask):
    """Exact match of the answer."""

    name = "msvd_qa"
    title = "MSVD-QA"
    split = "test"
    folder = "msvd_qa"
    official_n = 13157
    sources = (
        Source(MSVD_FILE, "questions and answers", MSVD_ORIGIN),
        Source(MSVD_MAPPING, "names of the clips", MSVD_ORIGIN),
        *video_sources("msvd_qa", "the MSVD clips (YouTubeClips)"),
    )

    def read_items(self, root: Path, prompts: str, frames: Frames = video_frames) -> Iterator[Item]:
        names = _mapping(root / MSVD_MAPPING)

        def name_of(video_id: Any, place: str) -> str:
            if f"vid{video_id}" not in names:
                raise DataError(f"{place}: video_id {video_id!r} is not in {root / MSVD_MAPPING} (as vid{video_id}).")
            return names[f"vid{video_id}"]

        return video_items(root / MSVD_FILE, name_of, prompts, frames)


class MsrvttQa(ExactVideoTask):
    """Exact match of the answer."""

    name = "msrvtt_qa"
    title = "MSRVTT-QA"
    split = "test"
    folder = "msrvtt_qa"
    official_n = 72821
    sources = (
        Source(MSRVTT_FILE, "questions and answers", "github.com/xudejing/video-question-answering, MSRVTT-QA"),
        *video_sources("msrvtt_qa", "the MSR-VTT test videos (video7010 ...)"),
    )

    def read_items(self, root: Path, prompts: str, frames: Frames = video_frames) -> Iterator[Item]:
        return video_items(root / MSRVTT_FILE, lambda video_id, place: f"video{video_id}", prompts, frames)


class Ivqa(VideoTask):
    """Full credit for an answer that two of the five annotators gave, half for one."""

    name = "ivqa"
    title = "iVQA"
    split = "test"
    metric = "min(n / 2, 1) over 5 answers, VQA's normaliser (Yang et al., Just Ask, 2021)"
    folder = "ivqa"
    sources = (
        Source(IVQA_FILE, "questions and answers", "github.com/antoyang/just-ask, iVQA"),
        *video_sources("ivqa", "the iVQA clips, named by their video_id (the authors' form)"),
    )

    def read_items(self, root: Path, prompts: str, frames: Frames = video_frames) -> Iterator[Item]:
        """Questions have no official id: the video's, with the number of the record."""
        path = root / IVQA_FILE
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
            yield Item(question, tuple(filter(None, answers)))

    def value(self, item: Item, said: Any) -> float:
        return half_accuracy(said, item.reference)


def video_items(
    path: Path, video_name: Callable[[str | int, str], str], prompts: str, frames: Frames
) -> Iterator[Item]:
    """Items of a questions file; `video_name` gives the name of a `video_id`'s video, below the file's folder."""
    found: dict[str, tuple[Path, ...]] = {}
    for place, record in json_records(path):
        name = video_name(field(record, "video_id", place, ID), place)
        if name not in found:
            found[name] = frames(path.parent, name)
        text = field(record, "question", place, str)
        question = Question(field(record, "id", place, ID), short_question(text, prompts), found[name], source=place)
        first = text.split(maxsplit=1)[0].lower() if text.split() else ""
        yield Item(question, field(record, "answer", place, str), {"kind": first})


def _mapping(path: Path) -> dict[str, str]:
    """ "vid<number>" -> name of the clip."""
    names = {}
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if words and len(words) != 2:
            raise DataError(f"{path}, line {number}: {line!r:.60}, expected '<clip> vid<number>'.")
        if words:
            names[words[1]] = words[0]
    return names
