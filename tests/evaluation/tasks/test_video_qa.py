"""MSVD-QA and MSRVTT-QA, which share their files' format."""

import pytest

from llava_mocle.cli.main import main
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.video_qa import MSVD_MAPPING, Ivqa, MsrvttQa, MsvdQa
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, make_images, ready_items

CLIPS = ("a1B2c3D4e5F_5_15", "-b2C3d4E5f6G_0_9")


def frames(folder, name, count):
    return [f"{folder}/frames/{name}/{number:03d}.jpg" for number in range(count)]


def test_msvd_frames_are_sampled_and_shared(tmp_path):
    root = data_root(tmp_path, "msvd_qa")
    make_images(*(root / path for path in frames("msvd_qa", CLIPS[0], 16)))
    # Of 16 frames the middles of four equal parts; of two frames both.
    sampled = [frames("msvd_qa", CLIPS[0], 16)[number] for number in (2, 6, 10, 14)]
    items = ready_items(MsvdQa(), root, sampled + frames("msvd_qa", CLIPS[1], 2))
    assert [item.question.question_id for item in items] == [39001, 39002, 39003, 39004]
    assert [path.name for path in items[0].question.images] == ["002.jpg", "006.jpg", "010.jpg", "014.jpg"]
    assert items[0].question.images == items[1].question.images
    assert items[0].question.prompt == "what is a man doing?\nAnswer the question using a single word or phrase."
    assert MsvdQa().items(root, "instructblip")[1].question.prompt == "Question: who is slicing? Short answer:"


def test_exact_match_by_question_word(tmp_path):
    root = data_root(tmp_path, "msvd_qa")
    make_images(*(root / frames("msvd_qa", clip, 1)[0] for clip in CLIPS))
    items = MsvdQa().items(root)
    scores = MsvdQa().score(items, answers_to(items, ["cooking", "The man.", "2", ""]))
    # No stemming; articles and punctuation go; "two" is 2; silence is wrong and unparsed.
    assert scores.metrics["accuracy"].items == (0, 1, 1, 0)
    assert scores.metrics["accuracy"].value == 50
    by_word = {name: metric.value for name, metric in scores.metrics.items() if name != "accuracy"}
    assert by_word == {
        "accuracy_what": 0,
        "accuracy_who": 100,
        "accuracy_how": 100,
        "accuracy_when": None,
        "accuracy_where": 0,
    }
    assert scores.unparsed == 1


def test_msrvtt(tmp_path):
    root = data_root(tmp_path, "msrvtt_qa")
    items = ready_items(MsrvttQa(), root, frames("msrvtt_qa", "video7010", 1) + frames("msrvtt_qa", "video7011", 1))
    assert [item.question.question_id for item in items] == [158581, 158582]
    scores = MsrvttQa().score(items, answers_to(items, ["couch", "a man"]))
    assert scores.metrics["accuracy"].items == (1, 0)
    assert MsrvttQa().items(root, "instructblip")[1].question.prompt == "Question: who sings? Short answer:"


@pytest.mark.parametrize("task", [MsvdQa(), MsrvttQa(), Ivqa()])
def test_frames_or_videos_are_needed(tmp_path, capsys, task):
    root = data_root(tmp_path, task.name)
    words = ["eval", "prepare", task.name, "--data-root", str(root)]
    # The run and `prepare` agree: without both, both are missing.
    assert [source.path for source in task.missing(root)] == [f"{task.name}/frames", f"{task.name}/videos"]
    with pytest.raises(DataError, match=r"2 of its files are missing(.|\n)*or the videos(.|\n)*or the frames"):
        task.check(root)
    assert main(words) == 1
    assert capsys.readouterr().out.count("MISSING") == 2
    for name in ("frames", "videos", "frames_4"):  # the last is what is kept of videos
        folder = root / task.name / name
        folder.mkdir()
        assert task.missing(root) == []
        task.check(root)
        assert main(words) == 1
        out = capsys.readouterr().out
        assert "MISSING" not in out
        assert f"{task.name}: {root / task.name}: neither frames of the video" in out
        folder.rmdir()


def test_a_mapping_with_a_byte_order_mark(tmp_path):
    root = data_root(tmp_path, "msvd_qa")
    make_images(*(root / frames("msvd_qa", clip, 1)[0] for clip in CLIPS))
    (root / MSVD_MAPPING).write_text((root / MSVD_MAPPING).read_text(), encoding="utf-8-sig")
    assert MsvdQa().items(root)[0].question.images == (root / frames("msvd_qa", CLIPS[0], 1)[0],)


def test_counting_reads_no_video(tmp_path):
    root = data_root(tmp_path, "msrvtt_qa")
    for number in (7010, 7011):
        path = root / f"msrvtt_qa/videos/video{number}.mp4"
        path.parent.mkdir(exist_ok=True)
        path.write_text("no video")
    assert MsrvttQa().count(root) == 2
    path.unlink()
    with pytest.raises(DataError, match="neither frames of the video 'video7011'"):
        MsrvttQa().count(root)


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "msvd_qa")
    with pytest.raises(DataError, match=f"neither frames of the video '{CLIPS[0]}'"):
        MsvdQa().items(root)
    edited(root / MSVD_MAPPING, "vid1451", "vid1400")
    with pytest.raises(DataError, match="record 0: video_id 1451 is not in"):
        MsvdQa().items(root)
    edited(root / MSVD_MAPPING, " vid1452", "")
    with pytest.raises(DataError, match=r"youtube_mapping.txt, line 2"):
        MsvdQa().items(root)
    (root / MSVD_MAPPING).unlink()
    with pytest.raises(DataError, match=r"youtube_mapping.txt: names of the clips"):
        MsvdQa().check(root)
    other = data_root(tmp_path, "msrvtt_qa")
    edited(other / "msrvtt_qa/test_qa.json", '"video_id"', '"video"')
    with pytest.raises(DataError, match=r"test_qa.json, record 0: no 'video_id'"):
        MsrvttQa().items(other)
