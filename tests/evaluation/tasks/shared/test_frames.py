import os
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.shared.frames import FRAMES, sampled_indices, video_frames
from tests.evaluation.tasks.official_files import make_images


class FakeContainer:
    """PyAV's container, as far as it is used: frame n is an image of the grey n."""

    def __init__(self, path):
        with open(path) as file:
            self.total = int(file.read())

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass

    def decode(self, video):
        assert video == 0
        if self.total < 0:
            raise NotImplementedError("no decoder for this codec")  # no kind that files and values raise
        for number in range(self.total):
            yield SimpleNamespace(to_image=lambda number=number: Image.new("RGB", (8, 8), (number, number, number)))


@pytest.fixture
def fake_av(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", SimpleNamespace(open=FakeContainer))


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(8, 4, [1, 3, 5, 7]), (100, 8, [6, 18, 31, 43, 56, 68, 81, 93]), (4, 4, [0, 1, 2, 3]), (2, 4, [0, 1]), (0, 4, [])],
)
def test_sampled_indices(total, count, expected):
    assert sampled_indices(total, count) == expected


def test_frames_that_are_there(tmp_path):
    make_images(*(tmp_path / f"frames/v/{number:02d}.png" for number in range(8)))
    (tmp_path / "frames/v/notes.txt").write_text("")
    assert [path.name for path in video_frames(tmp_path, "v")] == ["01.png", "03.png", "05.png", "07.png"]
    (tmp_path / "frames/empty").mkdir()
    with pytest.raises(DataError, match="empty: no image"):
        video_frames(tmp_path, "empty")


def test_a_video_is_read_once(tmp_path, fake_av):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v.avi").write_text("200")
    paths = video_frames(tmp_path, "v")
    assert [str(path.relative_to(tmp_path)) for path in paths] == [f"frames_{FRAMES}/v/{n:03d}.jpg" for n in range(4)]
    greys = [Image.open(path).getpixel((0, 0))[0] for path in paths]
    assert greys == pytest.approx([25, 75, 125, 175], abs=2)  # JPEG
    (tmp_path / "videos/v.avi").unlink()
    assert video_frames(tmp_path, "v") == paths
    assert [path.name for path in (tmp_path / f"frames_{FRAMES}").iterdir()] == ["v"]


def test_where_nothing_can_be_written_frames_are_kept_in_the_cache(tmp_path, monkeypatch, fake_av):
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    for folder, frames in (("one", "200"), ("two", "100")):
        (tmp_path / folder / "videos").mkdir(parents=True)
        (tmp_path / folder / "videos/v.avi").write_text(frames)
        os.utime(tmp_path / folder / "videos/v.avi", (0, 0))
        (tmp_path / folder / f"frames_{FRAMES}").write_text("no folder")
    first = video_frames(tmp_path / "one", "v")
    assert [Image.open(path).getpixel((0, 0))[0] for path in first] == pytest.approx([25, 75, 125, 175], abs=2)
    assert first[0].parents[1] == tmp_path / "cache/frames"
    # A video of the same name elsewhere is another one, and so is one that was replaced.
    second = video_frames(tmp_path / "two", "v")
    assert Image.open(second[3]).getpixel((0, 0))[0] == pytest.approx(87, abs=2)
    (tmp_path / "one/videos/v.avi").write_text("50")
    assert Image.open(video_frames(tmp_path / "one", "v")[3]).getpixel((0, 0))[0] == pytest.approx(43, abs=2)
    monkeypatch.setattr("llava_mocle.evaluation.tasks.shared.frames._read_frames", None)  # not again
    assert video_frames(tmp_path / "two", "v") == second


def test_no_folder_to_write_to(tmp_path, monkeypatch, fake_av):
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v.avi").write_text("8")
    for name in (f"frames_{FRAMES}", "cache"):
        (tmp_path / name).write_text("no folder")
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=rf"v: can't be unpacked into .*_{FRAMES} \(.*, nor into .*cache/frames \("):
        video_frames(tmp_path, "v")


def test_frames_that_appear_whole_or_not_at_all(tmp_path, monkeypatch, fake_av):
    """The disk is full, beside the video and in the cache."""
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos/v.avi").write_text("8")
    monkeypatch.setenv("LLAVA_MOCLE_CACHE", str(tmp_path / "cache"))

    def full(self, path, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(DataError, match=r"No space left on device.*No space left on device"):
        video_frames(tmp_path, "v")
    assert not list((tmp_path / f"frames_{FRAMES}").iterdir())


def test_videos_that_cannot_be_read(tmp_path, monkeypatch, fake_av):
    with pytest.raises(DataError, match=r"neither frames of the video 'v' .* nor the video"):
        video_frames(tmp_path, "v")
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos/v.mp4"
    video.write_text("broken")
    with pytest.raises(DataError, match=r"v.mp4: PyAV can't read it"):
        video_frames(tmp_path, "v")
    video.write_text("-1")
    with pytest.raises(DataError, match=r"v.mp4: PyAV can't read it \(NotImplementedError: no decoder"):
        video_frames(tmp_path, "v")
    video.write_text("0")
    with pytest.raises(DataError, match="no frame in it"):
        video_frames(tmp_path, "v")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match=r"pip install 'llava_mocle\[video\]'"):
        video_frames(tmp_path, "v")
    assert not (tmp_path / f"frames_{FRAMES}").exists()
