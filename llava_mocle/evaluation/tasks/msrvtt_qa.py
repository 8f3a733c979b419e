"""MSRVTT-QA: questions on web video clips; file format in `video_qa`, and `category_id` besides."""

from pathlib import Path

from llava_mocle.evaluation.task import Item, Source
from llava_mocle.evaluation.tasks.shared.video_qa import ExactVideoTask, Frames, video_items, video_sources

FILE = "msrvtt_qa/test_qa.json"


class MsrvttQa(ExactVideoTask):
    """Exact match of the answer."""

    name = "msrvtt_qa"
    title = "MSRVTT-QA"
    split = "test"
    folder = "msrvtt_qa"
    official_n = 72821
    sources = (
        Source(FILE, "questions and answers", "github.com/xudejing/video-question-answering, MSRVTT-QA"),
        *video_sources("msrvtt_qa", "the MSR-VTT test videos (video7010 ...)"),
    )

    def items_with_frames(self, root: Path, prompts: str, frames: Frames) -> list[Item]:
        """See `VideoTask`."""
        return video_items(root / FILE, lambda video_id, place: f"video{video_id}", prompts, frames)
