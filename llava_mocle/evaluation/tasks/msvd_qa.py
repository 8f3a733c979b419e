"""MSVD-QA: questions on short YouTube clips; file format in `video_qa`.

youtube_mapping.txt, a line: "a1B2c3D4e5F_5_15 vid1" (name of the clip, `video_id` with "vid" before it)
"""

from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.task import Item, Source
from llava_mocle.evaluation.tasks.shared.official_files import read_text
from llava_mocle.evaluation.tasks.shared.video_qa import ExactVideoTask, Frames, video_items, video_sources

FILE = "msvd_qa/test_qa.json"
MAPPING = "msvd_qa/youtube_mapping.txt"
ORIGIN = "github.com/xudejing/video-question-answering, MSVD-QA"


class MsvdQa(ExactVideoTask):
    """Exact match of the answer."""

    name = "msvd_qa"
    title = "MSVD-QA"
    split = "test"
    folder = "msvd_qa"
    official_n = 13157
    sources = (
        Source(FILE, "questions and answers", ORIGIN),
        Source(MAPPING, "names of the clips", ORIGIN),
        *video_sources("msvd_qa", "the MSVD clips (YouTubeClips)"),
    )

    def items_with_frames(self, root: Path, prompts: str, frames: Frames) -> list[Item]:
        """See `VideoTask`."""
        names = _mapping(root / MAPPING)

        def name_of(video_id: Any, place: str) -> str:
            if f"vid{video_id}" not in names:
                raise DataError(f"{place}: video_id {video_id!r} is not in {root / MAPPING} (as vid{video_id}).")
            return names[f"vid{video_id}"]

        return video_items(root / FILE, name_of, prompts, frames)


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
