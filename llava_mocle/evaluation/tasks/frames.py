"""Frames of videos as image files: found already extracted, or extracted once with PyAV."""

import os
import shutil
import tempfile
from pathlib import Path

from llava_mocle.errors import DataError

# As many as LAVIS gives InstructBLIP; eight of LLaVA-1.5's 576 tokens would not fit into its 4,096 positions.
FRAMES = 4
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
VIDEO_SUFFIXES = (".mp4", ".avi", ".webm", ".mkv", ".mov")


def sampled_indices(total: int, count: int = FRAMES) -> list[int]:
    """The middles of `count` equal parts of `total` frames, in order; all frames where there are fewer.

    >>> sampled_indices(100, 4)
    [12, 37, 62, 87]
    """
    if total <= count:
        return list(range(total))
    return [(2 * part + 1) * total // (2 * count) for part in range(count)]


def video_frames(folder: Path, name: str, count: int = FRAMES) -> tuple[Path, ...]:
    """`count` uniformly sampled frames of a video, in order.

    They are taken from `folder/frames/<name>/`, whose images are all frames (or any even part of them) in the order of
    their names; else `folder/videos/<name>.<mp4, avi, ...>` is read, and its frames are kept in
    `folder/frames_<count>/<name>/`.

    Raises:
        DataError: there is neither, the video can't be read, or PyAV is missing.
    """
    ready, kept = folder / "frames" / name, folder / f"frames_{count}" / name
    if ready.is_dir():
        images = _images(ready)
        if not images:
            raise DataError(f"{ready}: no image; expected the frames of the video as {', '.join(IMAGE_SUFFIXES)}.")
        return tuple(images[index] for index in sampled_indices(len(images), count))
    if not kept.is_dir():
        videos = [folder / "videos" / (name + suffix) for suffix in VIDEO_SUFFIXES]
        video = next((path for path in videos if path.is_file()), None)
        if video is None:
            raise DataError(
                f"{folder}: neither frames of the video {name!r} (frames/{name}/, one image a frame) nor the video "
                f"(videos/{name}.mp4, .avi ...)."
            )
        _extract(video, kept, count)
    return tuple(_images(kept))


def _images(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)


def _extract(video: Path, target: Path, count: int) -> None:
    """Write the sampled frames of `video` as JPEG into `target`, which appears whole or not at all."""
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{video}: reading videos needs PyAV (`pip install av`); or put the video's frames as images into "
            f"{target.parents[1] / 'frames' / target.name}."
        ) from error
    try:
        # The number of frames that a container states is often wrong: they are counted.
        with av.open(str(video)) as container:
            total = sum(1 for _ in container.decode(video=0))
        wanted = set(sampled_indices(total, count))
        with av.open(str(video)) as container:
            chosen = [frame.to_image() for index, frame in enumerate(container.decode(video=0)) if index in wanted]
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{video}: PyAV can't read it ({error}); fetch the file again.") from error
    if not chosen:
        raise DataError(f"{video}: no frame in it; fetch the file again.")
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    for number, image in enumerate(chosen):
        image.save(aside / f"{number:03d}.jpg", quality=95)
    try:
        os.replace(aside, target)
    except OSError:
        # Another process was faster.
        shutil.rmtree(aside)
