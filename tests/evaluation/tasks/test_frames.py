import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.frames import FRAMES, sampled_indices, video_frames
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


def test_videos_that_cannot_be_read(tmp_path, monkeypatch, fake_av):
    with pytest.raises(DataError, match=r"neither frames of the video 'v' .* nor the video"):
        video_frames(tmp_path, "v")
    (tmp_path / "videos").mkdir()
    video = tmp_path / "videos/v.mp4"
    video.write_text("broken")
    with pytest.raises(DataError, match=r"v.mp4: PyAV can't read it"):
        video_frames(tmp_path, "v")
    video.write_text("0")
    with pytest.raises(DataError, match="no frame in it"):
        video_frames(tmp_path, "v")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(DataError, match="pip install av"):
        video_frames(tmp_path, "v")
    assert not (tmp_path / f"frames_{FRAMES}").exists()
