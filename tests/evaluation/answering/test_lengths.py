"""Questions that are too long for the model, or have an image that cannot be read."""

import json
import logging
from dataclasses import replace

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation import model_vqa
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.evaluation.answering.lengths import check_lengths
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.answering.run import answer_questions
from llava_mocle.evaluation.suite import SuiteSettings, TasksFailed, evaluate_tasks
from llava_mocle.inference import Predictor, Request
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.toy import Letters, OtherLetters, write_letters
from tests.inference import tiny


class Short(FakePredictor):
    """Reads 30 tokens: letters, and ten for an image (see `FakePredictor.length`)."""

    def __init__(self):
        super().__init__()
        self.context_length = 30

    def predict_batch(self, requests, **settings):
        if any(self.length(request) >= 30 for request in requests):
            raise DataError("a prompt is too long")
        return super().predict_batch(requests, **settings)


QUESTIONS = [
    Question("short", "Why?", source="q.jsonl, line 1"),
    Question("long", "x" * 30, source="q.jsonl, line 2"),
    Question("shown", "Which one of these?", images=("a.png", "b.png"), source="q.jsonl, line 3"),
    Question("ranked", "Which one is it?", candidates=("yes", "no, it is not"), source="q.jsonl, line 4"),
]


def test_they_are_named_before_the_first_answer(tmp_path, monkeypatch):
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    monkeypatch.chdir(tmp_path)
    predictor = Short()
    with pytest.raises(DataError) as told:
        answer_questions(predictor, QUESTIONS, tmp_path / "a.jsonl")
    # 30 letters; 19 letters and two images; 16 letters, and 13 of the longer candidate: 29, which is short enough.
    assert str(told.value) == (
        "q.jsonl, line 2: question 'long' (30 tokens), q.jsonl, line 3: question 'shown' (39 tokens): too long, as the "
        "model reads at most 30 tokens with the images and the answer (2 of 4 questions). Shorten them or give fewer "
        "images; or pass --skip-unaskable, which gives them an empty answer."
    )
    assert predictor.batches == []
    assert not (tmp_path / "a.jsonl").exists()
    answers = answer_questions(predictor, QUESTIONS, tmp_path / "a.jsonl", skip_unaskable=True)
    assert [answer["text"] for answer in answers] == ["4 letters", "", "", "yes"]
    assert ["skipped" in answer["metadata"] for answer in answers] == [False, True, True, False]
    assert answers == read_answers(tmp_path / "a.jsonl")
    assert answer_questions(Short(), QUESTIONS, tmp_path / "a.jsonl", skip_unaskable=True) == answers


def test_little_room_for_the_answer_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        check_lengths(Short(), QUESTIONS[:1], 26)
        check_lengths(Short(), [QUESTIONS[3]], 26)  # a ranked answer has the length that it has
        assert caplog.text == ""
        check_lengths(Short(), QUESTIONS[:1], 27)
    assert "1 of 1 questions leave less than 27 tokens for the answer, of the 30 that the model reads" in caplog.text
    assert "question 'short' (4 tokens)" in caplog.text


def test_a_model_that_reads_anything():
    check_lengths(FakePredictor(), QUESTIONS, 1000)


def test_no_benchmark_is_begun_where_a_later_one_has_too_long_questions(tmp_path):
    class Longer(OtherLetters):
        def read_items(self, root, prompts):
            for item in super().read_items(root, prompts):
                yield replace(item, question=replace(item.question, prompt=item.question.prompt + " Really?"))

    root, predictor = write_letters(tmp_path / "data", 4), Short()
    with pytest.raises(DataError, match=r"letters.json, record 3: question 3 \(\d+ tokens\).*too long"):
        evaluate_tasks(predictor, [Letters(), Longer()], root, tmp_path / "out")
    assert predictor.batches == []
    tasks = evaluate_tasks(predictor, [Letters(), Longer()], root, tmp_path / "out", SuiteSettings(skip_unaskable=True))
    assert [tasks["tasks"][name]["skipped"] for name in ("letters", "other_letters")] == [0, 1]


def test_the_length_is_the_models(tmp_path):
    """Text, template and images, as they are tokenized for the answer; and ranked with each candidate."""
    predictor = Predictor.from_pretrained(tiny.write_base(tmp_path / "base"), device="cpu")
    assert predictor.context_length == 512
    bare, one, two = (predictor.length(Request("Why?", ["x.png"] * images)) for images in range(3))
    assert 4 + 1 <= one - bare <= 4 + 3  # four tokens, and a line break
    assert two - one in range(4, 7)
    ranked = predictor.length(Request("Why?"), ["no", "because it is so"])
    assert ranked > predictor.length(Request("Why?"), ["no"]) > bare


def test_model_vqa_names_and_skips_what_cannot_be_asked(tmp_path, capsys):
    base = tiny.write_base(tmp_path / "base")
    tiny.write_images(tmp_path / "images", 1)
    (tmp_path / "images" / "torn.png").write_bytes((tmp_path / "images" / "0.png").read_bytes()[:40])
    lines = [
        {"question_id": "good", "text": "Why?", "image": "0.png"},
        {"question_id": "torn", "text": "Why?", "image": "torn.png"},
        {"question_id": "last", "text": "Where?"},
    ]
    path = tmp_path / "q.jsonl"
    words = ["--model-path", str(base), "--image-folder", str(tmp_path / "images"), "--device", "cpu"]
    words += ["--question-file", str(path), "--answers-file", str(tmp_path / "a.jsonl"), "--max_new_tokens", "2"]

    path.write_text(
        "".join(json.dumps(line) + "\n" for line in [*lines, lines[2] | {"question_id": 9, "text": "é " * 600}])
    )
    assert model_vqa.main(words) == 2
    assert "q.jsonl, line 4: question 9 (" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()

    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert model_vqa.main([*words, "--batch-size", "1"]) == 2
    assert "q.jsonl, line 2: question 'torn' cannot be asked: " in capsys.readouterr().err
    assert [answer["question_id"] for answer in read_answers(tmp_path / "a.jsonl")] == ["good"]
    assert model_vqa.main([*words, "--skip-unaskable"]) == 0
    answers = read_answers(tmp_path / "a.jsonl")
    assert [answer["question_id"] for answer in answers] == ["good", "torn", "last"]
    assert answers[1]["text"] == ""
    assert "torn.png" in answers[1]["metadata"]["skipped"]
    assert Image.open(tmp_path / "images" / "0.png").size  # the good one was asked with its image
    assert "skipped" not in answers[0]["metadata"]


def test_a_task_with_an_image_that_cannot_be_read_names_the_question(tmp_path):
    class Blind(FakePredictor):
        def predict_batch(self, requests, **settings):
            if any(request.image_list for request in requests):
                raise DataError("red.png cannot be decoded")
            return super().predict_batch(requests, **settings)

    root = write_letters(tmp_path / "data", 4)
    with pytest.raises(
        TasksFailed, match=r"letters: .*record 1: question 1 cannot be asked: red.png cannot be decoded"
    ):
        evaluate_tasks(Blind(), [Letters(), OtherLetters()], root, tmp_path / "out")
