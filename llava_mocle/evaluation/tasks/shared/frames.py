"""Frames of videos as image files: found already extracted, or extracted once with PyAV."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.first_writable import first_writable
from llava_mocle.io.cache import cache_root
from llava_mocle.io.files import make_readable
from llava_mocle.io.folders import folder_aside
from llava_mocle.io.text import one_line

# The number that LAVIS gives InstructBLIP. Eight frames of 576 tokens each would not fit into LLaVA-1.5's 4,096
# positions.
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
    `folder/frames_<count>/<name>/`, or below `$LLAVA_MOCLE_CACHE` where nothing can be written there.

    Raises:
        DataError: there is neither, the video can't be read, PyAV is missing, or there is no folder to write to.
    """
    found = _frames_or_video(folder, name, count)
    if found.is_file():
        found = _unpacked(found, folder / f"frames_{count}" / name, count)
    images = sorted(path for path in found.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not images:
        raise DataError(f"{found}: no image; expected the frames of the video as {', '.join(IMAGE_SUFFIXES)}.")
    return tuple(images[index] for index in sampled_indices(len(images), count))


def expected_frames(folder: Path, name: str) -> tuple[Path, ...]:
    """Check that `video_frames` would find the video or its frames, without reading them; returns no frames.

    Raises:
        DataError: there is neither.
    """
    _frames_or_video(folder, name, FRAMES)
    return ()


def _frames_or_video(folder: Path, name: str, count: int) -> Path:
    """The folder of the frames, or else the video's file."""
    for frames in (folder / "frames" / name, folder / f"frames_{count}" / name):
        if os.path.isdir(frames):  # unlike Path.is_dir, it takes every name
            return frames
    for suffix in VIDEO_SUFFIXES:
        if os.path.isfile(folder / "videos" / (name + suffix)):
            return folder / "videos" / (name + suffix)
    raise DataError(
        f"{folder}: neither frames of the video {name!r:.200} (frames/<name>/, one image a frame) nor the video "
        f"(videos/<name>.mp4, .avi ...)."
    )


def _unpacked(video: Path, beside: Path, count: int) -> Path:
    """The folder with the frames of `video`: `beside` it, or in the cache."""
    state = video.stat()
    key = hashlib.sha256(f"{video.resolve()} {state.st_size} {state.st_mtime_ns} {count}".encode()).hexdigest()
    cached = cache_root() / "frames" / key[:32]
    if cached.is_dir():
        return cached
    images = _read_frames(video, beside, count)
    return first_writable(lambda target: _write_frames(images, target), beside, cached)


def _read_frames(video: Path, beside: Path, count: int) -> list[Any]:
    try:
        import av
    except ImportError as error:
        raise DataError(
            f"{video}: reading videos needs PyAV (pip install 'llava_mocle[video]'); or put the video's frames as "
            f"images into {beside.parents[1] / 'frames' / beside.name}."
        ) from error
    try:
        # The number of frames that a container states is often wrong: they are counted.
        with av.open(str(video)) as container:
            total = sum(1 for _ in container.decode(video=0))
        wanted = set(sampled_indices(total, count))
        with av.open(str(video)) as container:
            chosen = [frame.to_image() for index, frame in enumerate(container.decode(video=0)) if index in wanted]
    except MemoryError:
        raise
    except Exception as error:  # every decoder has errors of its own
        raise DataError(
            f"{video}: PyAV can't read it ({type(error).__name__}: {one_line(error)}); fetch the file again."
        ) from error
    if not chosen:
        raise DataError(f"{video}: no frame in it; fetch the file again.")
    return chosen


def _write_frames(images: Sequence[Any], target: Path) -> None:
    """Write images as JPEG into the folder `target`, which appears whole or not at all."""
    with folder_aside(target) as aside:
        for number, image in enumerate(images):
            image.save(aside / f"{number:03d}.jpg", quality=95)
        make_readable(aside)
        try:
            os.replace(aside, target)
        except OSError:
            if not target.is_dir():  # no other process was faster
                raise
