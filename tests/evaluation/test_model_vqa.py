import json

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.file import FIELDS, read_answers
from llava_mocle.evaluation.model_vqa import main, read_questions
from llava_mocle.inference import Predictor
from tests.inference import tiny


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A checkpoint, pictures, and a question file with text-only, one-image and two-image questions."""
    folder = tmp_path_factory.mktemp("model_vqa")
    base = tiny.write_base(folder / "base")
    tiny.write_checkpoint(folder / "model", base, tiny.write_encoder(folder / "encoder"))
    tiny.write_images(folder / "images", 4)
    questions = [
        {"question_id": number, "text": question, "category": "tiny"}
        | ({"image": f"{number % 4}.png"} if number % 3 else {})
        for number, question in enumerate(tiny.QUESTIONS)
    ]
    questions.append({"question_id": "two", "image": ["0.png", "1.png"], "text": "Same\u2028thing?"})
    lines = [json.dumps(question, ensure_ascii=False) + "\n" for question in questions]
    (folder / "questions.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def ask(work, answers_file, *flags):
    return main(
        [
            *("--model-path", str(work / "model"), "--image-folder", str(work / "images")),
            *("--question-file", str(work / "questions.jsonl"), "--answers-file", str(answers_file)),
            *("--max_new_tokens", "8", "--temperature", "0", "--conv-mode", "vicuna_v1", "--device", "cpu"),
            *flags,
        ]
    )


def test_batches_chunks_and_resumption_equal_one_run(work, tmp_path, capsys):
    assert ask(work, tmp_path / "whole.jsonl", "--batch-size", "1") == 0
    answers = read_answers(tmp_path / "whole.jsonl")
    assert [record["question_id"] for record in answers] == [*range(6), "two"]
    assert tuple(answers[0]) == FIELDS
    predictor = Predictor.from_pretrained(work / "model", device="cpu")
    expected = predictor.predict(work / "images" / "1.png", tiny.QUESTIONS[1], max_new_tokens=8)
    assert answers[1]["text"] == expected.text
    assert answers[1]["model_id"] == predictor.model_id
    assert answers[1]["metadata"]["cluster_id"] == expected.cluster_id
    assert answers[1]["metadata"]["cluster_distance"] == pytest.approx(expected.cluster_distance, abs=2e-5)

    assert ask(work, tmp_path / "batched.jsonl", "--batch-size", "16") == 0
    assert read_answers(tmp_path / "batched.jsonl") == answers

    for index in range(2):
        chunk = ("--num-chunks", "2", "--chunk-idx", str(index))
        assert ask(work, tmp_path / f"{index}.jsonl", "--batch-size", "3", *chunk) == 0
    assert [record for i in range(2) for record in read_answers(tmp_path / f"{i}.jsonl")] == answers

    assert ask(work, tmp_path / "resumed.jsonl", "--limit", "3") == 0
    assert len(read_answers(tmp_path / "resumed.jsonl")) == 3
    assert ask(work, tmp_path / "resumed.jsonl") == 0
    assert read_answers(tmp_path / "resumed.jsonl") == answers
    assert "7 of 7 questions" in capsys.readouterr().err


def test_other_settings_are_refused_until_overwritten(work, tmp_path, capsys):
    path = tmp_path / "answers.jsonl"
    assert ask(work, path, "--limit", "2") == 0
    before = path.read_bytes()
    assert ask(work, path, "--limit", "2", "--num_beams", "2") == 2
    assert "--overwrite" in capsys.readouterr().err
    assert path.read_bytes() == before
    assert ask(work, path, "--limit", "2", "--num_beams", "2", "--overwrite") == 0
    assert path.read_bytes() != before


def test_clusters_count_as_the_flags_say(work, tmp_path, capsys):
    path, strange = tmp_path / "answers.jsonl", "zzz ### 12345 qqq"  # far from every cluster
    (tmp_path / "q.jsonl").write_text(json.dumps({"question_id": 0, "text": strange}) + "\n")
    files = ("--question-file", str(tmp_path / "q.jsonl"))
    flags = (*files, "--far-to-universal", "--soft-assignment", "0.5")
    assert ask(work, path, *flags) == 0
    (answer,) = read_answers(path)
    predictor = Predictor.from_pretrained(work / "model", device="cpu", far_to_universal=True, soft_assignment=0.5)
    assert answer["text"] == predictor.predict(None, strange, max_new_tokens=8).text
    assert answer["metadata"]["predictor"].endswith(" far_to_universal soft_assignment=0.5")
    assert ask(work, path, *files) == 2
    assert "--overwrite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "Why?"}\n', "line 1: no 'question_id', only text"),
        ('{"question_id": 1}\n', "line 1: no 'text', only question_id"),
        (
            '{"question_id": null, "text": "Why?"}\n',
            "line 1: field 'question_id' is None, expected a text or a whole number",
        ),
        ('{"question_id": 1, "text": "Why?"}\n{"question_id"\n', "line 2: not JSON"),
        ('{"question_id": 1, "text": "Why?", "image": 3}\n', "'image' is 3"),
        ('[{"question_id": 1, "text": "Why?"}, 3]', "record 1: found 3, expected an object"),
        ('[{"question_id": 1, ', "line 1: not JSON"),
    ],
)
def test_bad_question_files_are_named(tmp_path, content, message):
    path = tmp_path / "questions.jsonl"
    path.write_text(content)
    with pytest.raises(DataError, match=message):
        read_questions(path, tmp_path)


def test_bad_input_exits_with_2(work, tmp_path, capsys):
    assert main(["--model-path", "m", "--question-file", "none.jsonl", "--answers-file", str(tmp_path / "a")]) == 2
    assert "none.jsonl" in capsys.readouterr().err
    assert ask(work, tmp_path / "a.jsonl", "--image-folder", str(tmp_path)) == 2
    assert "1.png" in capsys.readouterr().err
    assert not (tmp_path / "a.jsonl").exists()


def test_a_json_list_is_read_too(tmp_path):
    (tmp_path / "q.json").write_text('[{"question_id": "a", "text": "Why?", "image": "x.png"}]')
    (question,) = read_questions(tmp_path / "q.json", tmp_path)
    assert question.images == (tmp_path / "x.png",)


def test_the_question_file_is_utf8_with_or_without_a_mark(tmp_path):
    line = '{"question_id": 1, "text": "Où?"}\n'
    path = tmp_path / "q.jsonl"
    path.write_text(line, encoding="utf-8-sig")
    assert [question.prompt for question in read_questions(path, tmp_path)] == ["Où?"]
    path.write_text(line, encoding="latin-1")
    with pytest.raises(DataError, match=r"q\.jsonl: byte 29 is not UTF-8"):
        read_questions(path, tmp_path)


@pytest.mark.parametrize("flag", ["--limit", "--batch-size"])
@pytest.mark.parametrize("value", ["0", "-1"])
def test_counts_below_one_are_refused_before_anything_is_read(tmp_path, capsys, flag, value):
    files = ["--question-file", str(tmp_path / "none.jsonl"), "--answers-file", str(tmp_path / "a.jsonl")]
    assert main(["--model-path", "m", *files, flag, value]) == 2
    assert f"{flag} {value}: must be at least 1" in capsys.readouterr().err
