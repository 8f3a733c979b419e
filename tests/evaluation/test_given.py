"""Answers that another system wrote: their forms, how they find their questions, and their scores."""

import csv
import hashlib
import json

import pytest

from llava_mocle.cli.main import main
from llava_mocle.errors import DataError
from llava_mocle.evaluation.answering.given_file import read_given
from llava_mocle.evaluation.answering.match import match_given
from llava_mocle.evaluation.answering.question import Question
from llava_mocle.evaluation.registry import all_tasks
from llava_mocle.evaluation.scores.results import read_results
from llava_mocle.evaluation.suite import evaluate_tasks
from tests.evaluation.fakes import FakePredictor
from tests.evaluation.tasks.official_files import data_root, make_images

# POPE's fixture: adversarial 1 to 4, popular 1, random 1; its labels by LLaVA's ids.
LABELS = {1: "yes", 2: "no", 3: "yes", 4: "no", 20000001: "yes", 10000001: "no"}


@pytest.fixture
def pope(tmp_path):
    return data_root(tmp_path / "data", "pope")


def lines(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def score(root, path, *more, task="pope"):
    out = path.parent / "out"
    code = main(["eval", task, "--answers", str(path), "--data-root", str(root), "--output", str(out), *more])
    return code, out


def llava(number, text):
    return {"question_id": number, "prompt": "?", "text": text, "answer_id": "x", "model_id": "llava", "metadata": {}}


def lmms_eval(number, text, target, **more):
    return {"doc_id": number, "target": target, "filtered_resps": [text], "doc_hash": "0", **more}


FORMS = {
    "llava.jsonl": lambda path: lines(path, [llava(number, text) for number, text in LABELS.items()]),
    "reversed.jsonl": lambda path: lines(path, [llava(str(n), text) for n, text in list(LABELS.items())[::-1]]),
    "mapping.json": lambda path: path.write_text(json.dumps(LABELS)),
    "list.json": lambda path: path.write_text(json.dumps([{"id": n, "output": text} for n, text in LABELS.items()])),
    "keys.json": lambda path: path.write_text(
        json.dumps(
            {f"adversarial-{n}": LABELS[n] for n in (1, 2, 3, 4)}
            | {"popular-1": {"prediction": "yes"}, "random-1": {"response": "no"}}
        )
    ),
    "splits.jsonl": lambda path: lines(
        path,
        [{"question_id": n, "category": "adversarial", "answer": LABELS[n]} for n in (1, 2, 3, 4)]
        + [{"question_id": 1, "category": "popular", "answer": "yes"}]
        + [{"question_id": 1, "category": "random", "answer": "no"}],
    ),
    "lmms_eval.jsonl": lambda path: lines(
        path, [lmms_eval(place, text, text) for place, text in enumerate(LABELS.values())]
    ),
    "nested.jsonl": lambda path: lines(
        path, [lmms_eval(place, [text], text) for place, text in enumerate(LABELS.values())]
    ),
    "logs.json": lambda path: path.write_text(
        json.dumps({"args": {}, "logs": [lmms_eval(place, text, text) for place, text in enumerate(LABELS.values())]})
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_scores(tmp_path, pope, name):
    FORMS[name](tmp_path / name)
    code, out = score(pope, tmp_path / name)
    assert code == 0
    results = read_results(out)
    metrics = results["tasks"]["pope"]["metrics"]
    # All right; random has no "yes" to find.
    assert (metrics["f1_adversarial"]["value"], metrics["f1_popular"]["value"]) == (100, 100)
    assert [metrics[f"accuracy_{split}"]["value"] for split in ("adversarial", "popular", "random")] == [100] * 3
    assert results["model_id"] == f"{name.split('.')[0]}@given"


def test_a_table(tmp_path, pope):
    with (tmp_path / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question_id", "prediction"], *LABELS.items()])
    assert score(pope, tmp_path / "table.csv")[0] == 0


def test_what_is_recorded(tmp_path, pope, capsys):
    path = FORMS["llava.jsonl"](tmp_path / "llava.jsonl")
    code, out = score(pope, path, "--model-name", "theirs", "--limit", "3")
    assert code == 0
    assert "theirs@given" in capsys.readouterr().out
    entry = read_results(out)["tasks"]["pope"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert entry["answers"] == {"file": str(path), "sha256": digest, "n": 3}
    assert (entry["n"], entry["limit"], entry["settings"]["predictor"]) == (3, 3, None)
    # Other answers do not take the place of these by accident; the same ones may.
    assert score(pope, path, "--model-name", "theirs")[0] == 0
    lines(path, [llava(number, "yes") for number in LABELS])
    assert score(pope, path, "--model-name", "theirs")[0] == 2
    assert "is the score of other answers" in capsys.readouterr().err
    assert score(pope, path, "--model-name", "theirs", "--overwrite")[0] == 0


def test_they_score_as_our_own_answers_do_and_stand_in_the_report(tmp_path, pope, capsys):
    task = all_tasks()["pope"]()
    items = task.items(pope)
    make_images(*{image for item in items for image in item.question.images})
    says = {item.question.prompt: item.reference for item in items}
    own = evaluate_tasks(FakePredictor(says), [task], pope, tmp_path / "own")["tasks"]["pope"]
    code, out = score(pope, tmp_path / "own" / "answers" / "pope.jsonl")
    assert code == 0
    theirs = read_results(tmp_path / "own" / "answers" / "out")["tasks"]["pope"]
    assert (theirs["metrics"], theirs["items_digest"]) == (own["metrics"], own["items_digest"])
    assert main(["report", f"own={tmp_path / 'own'}", f"theirs={out}"]) == 0
    assert "theirs - own" in capsys.readouterr().out


def test_a_folder_with_a_file_a_task(tmp_path, pope):
    folder = tmp_path / "answers"
    folder.mkdir()
    FORMS["llava.jsonl"](folder / "pope.jsonl")
    data_root(tmp_path / "data" / "more", "mm-vet").joinpath("mm-vet").rename(pope / "mm-vet")
    (folder / "mm_vet.json").write_text(json.dumps({"v1_0": "a", "v1_1": "b", "v1_2": "c"}))
    assert score(pope, folder, task="pope,mm_vet")[0] == 0
    results = read_results(tmp_path / "out")
    assert (set(results["tasks"]), results["model_id"]) == ({"pope", "mm_vet"}, "answers@given")
    upload = json.loads((tmp_path / "out/submissions/mm_vet/mm-vet.json").read_text())
    assert upload == {"v1_0": "a", "v1_1": "b", "v1_2": "c"}
    assert score(pope, folder / "pope.jsonl", task="pope,mm_vet")[0] == 2


def test_ids_that_questions_share_need_the_prompt(tmp_path):
    root = data_root(tmp_path / "data", "textvqa")
    data = json.loads((root / "textvqa/TextVQA_0.5.1_val.json").read_text())["data"]
    by_image = [
        {"question_id": r["image_id"], "prompt": f"{r['question']}\nIn a word.", "text": r["answers"][0]} for r in data
    ]
    assert len({record["question_id"] for record in by_image}) < len(by_image)  # two questions about one image
    assert score(root, lines(tmp_path / "image.jsonl", by_image[::-1]), task="textvqa")[0] == 0
    by_id = [{"question_id": record["question_id"], "answer": record["answers"][0]} for record in data]
    assert score(root, lines(tmp_path / "id.jsonl", by_id), "--overwrite", task="textvqa")[0] == 0
    values = []
    for name in ("image", "id"):
        assert score(root, tmp_path / f"{name}.jsonl", "--overwrite", task="textvqa")[0] == 0
        values.append(read_results(tmp_path / "out")["tasks"]["textvqa"]["metrics"]["accuracy"]["items"])
    assert values[0] == values[1]


def test_lmms_evals_samples_by_the_ids_that_their_metrics_log(tmp_path):
    """In any order: by what `submission` or a score holds, and by the prompt where questions share the id."""
    root = data_root(tmp_path / "data", "textvqa")
    data = json.loads((root / "textvqa/TextVQA_0.5.1_val.json").read_text())["data"]
    logged = [
        {"doc_id": n, "target": str(r["answers"]), "filtered_resps": [[r["answers"][0]]], "input": r["question"]}
        | {"exact_match": 0.0, "submission": {"question_id": r["question_id"], "answer": "not this one"}}
        for n, r in enumerate(data[::-1])
    ]
    own = [{"question_id": r["question_id"], "text": r["answers"][0]} for r in data]
    values = []
    for name, records in (("logged", logged), ("own", own)):
        assert score(root, lines(tmp_path / f"{name}.jsonl", records), "--overwrite", task="textvqa")[0] == 0
        values.append(read_results(tmp_path / "out")["tasks"]["textvqa"]["metrics"]["accuracy"]["items"])
    assert values[0] == values[1]

    questions = [Question("a/1.jpg", f"Is it {word}?\nIn a word.", key=f"a/1.jpg-{word}") for word in ("red", "blue")]
    records = [
        {"doc_id": n, "filtered_resps": [word], "input": f"Is it {word}? Please answer yes or no."}
        | {"mme_perception_score": {"question_id": "a/1.jpg", "category": "a", "score": 1.0}}
        for n, word in enumerate(("blue", "red"))
    ]
    path = lines(tmp_path / "mme.jsonl", records)
    assert [given.text for given in match_given(read_given(path), questions, path)] == ["red", "blue"]


def test_held_out_rows(tmp_path, capsys):
    rows = [
        {"id": n, "conversations": [{"from": "human", "value": f"{n}?"}, {"from": "gpt", "value": str(n)}]}
        for n in range(3)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    path = lines(tmp_path / "theirs.jsonl", [{"id": n, "text": "1"} for n in range(3)])
    words = ["eval", "--rows", str(tmp_path / "rows.json"), "--answers", str(path), "--output", str(tmp_path / "out")]
    assert main(words) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert results["domains"]["rows"]["score"] == pytest.approx(1 / 3)
    assert results["domains"]["rows"]["answers"]["file"] == str(path)
    assert results["model_id"] == "theirs@given"


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([llava(1, "yes")], "5 questions have no answer ('adversarial-2', 'adversarial-3', 'adversarial-4', "),
        ([*(llava(n, "no") for n in LABELS), llava(9, "no")], "1 answers are to no question (line 7: '9')"),
        ([*(llava(n, "no") for n in LABELS), llava("4", "no")], "answered before (line 7: '4')"),
        ([llava(n, "no") | {"prediction": "x"} for n in LABELS], "line 1: has 'text', 'prediction', expected one of"),
        ([{"question_id": 1}], "line 1: has 'question_id', expected one of text, answer, "),
        ([{"text": "yes"}], "names no question"),
        ([llava(1, None)], "line 1: 'text' is None, expected a text"),
        ([llava(1, True)], "line 1: 'text' is True, expected a text"),
        ([llava(1, "\ud83d")], "line 1: 'text' has half a surrogate pair"),
        ([llava(1.5, "yes")], "line 1: field 'question_id' is 1.5, expected a text or a whole number"),
        ([llava(None, "yes")], "line 1: field 'question_id' is None"),
        ([llava([1], "yes")], "line 1: field 'question_id' is [1]"),
        ([lmms_eval(n, [[-1.5, False], [-2.5, True]], "no") for n in range(6)], "likelihoods and several answers"),
        ([lmms_eval(n, "yes", "no") for n in range(6)], "doc_id 0, and its prompt or target denies that"),
        ([{"doc_id": n, "filtered_resps": ["no"]} for n in range(6)], "neither its prompt nor its target says that"),
        ([lmms_eval(n, "yes", "no") for n in (0, 7, -1)], "answers are to no question"),
        ([lmms_eval(True, "yes", "no")], "names no question"),
        ([3], "found 3, expected an object"),
        ([], "there is no answer in it"),
    ],
)
def test_answers_that_do_not_fit(tmp_path, pope, capsys, records, message):
    code, out = score(pope, lines(tmp_path / "theirs.jsonl", records))
    error = capsys.readouterr().err
    assert code == 2
    assert message in error
    assert "theirs.jsonl" in error
    assert error.count("\n") == 1
    assert not out.exists()


def test_the_key_of_the_answer_can_be_named(tmp_path, pope):
    path = lines(tmp_path / "a.jsonl", [{"id": n, "text": "the question", "answer": LABELS[n]} for n in LABELS])
    assert score(pope, path)[0] == 2
    assert score(pope, path, "--answers-key", "answer")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["vsr", "--answers", "{a}"], "vsr ranks candidates by their likelihood"),
        (["pope", "--answers", "none.jsonl"], "none.jsonl': no such file or directory"),
        (["pope", "--answers", "a" * 5000], "file name too long"),
        (["pope", "--answers", "{a}", "--model", "m"], "--model asks a model"),
        (["pope", "--answers", "{a}", "--tasks", "mme"], "name the benchmarks once"),
        (["pope", "mme", "--answers", "{a}"], "name the benchmarks once"),
        (["pop", "--answers", "{a}"], "unknown task 'pop'; did you mean 'pope'?"),
        (["--answers", "{a}"], "nothing to score"),
        (["pope"], "a model is asked with --model and --tasks pope"),
        (["pope", "--answers-key", "text"], "a model is asked with --model"),
        (["--tasks", "pope", "--model-name", "x"], "--model-name goes with --answers"),
    ],
)
def test_words_that_do_not_go_together(tmp_path, capsys, words, message):
    lines(tmp_path / "a.jsonl", [{"id": 1, "text": "yes"}])
    data_root(tmp_path / "data", "vsr")
    data_root(tmp_path / "data", "pope")
    words = [word.format(a=tmp_path / "a.jsonl") for word in words]
    assert main(["eval", *words, "--data-root", str(tmp_path / "data"), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err


def test_the_longest_question_in_a_prompt_is_meant(tmp_path):
    questions = [Question("a.jpg", text, key=text) for text in ("Is it a cat?", "Is it a cat? Or not?")]
    records = [{"id": "a.jpg", "question": f"Look. {q.prompt} Yes or no.", "text": q.prompt} for q in questions[::-1]]
    path = lines(tmp_path / "a.jsonl", records)
    assert [given.text for given in match_given(read_given(path), questions, path)] == [q.prompt for q in questions]
    path = lines(tmp_path / "b.jsonl", [{"id": "a.jpg", "text": "yes"}] * 2)
    with pytest.raises(DataError, match=r"2 questions share the id 'a\.jpg', and .*line 1 has no prompt"):
        match_given(read_given(path), questions, path)


def test_videos_and_images_need_not_be_there(tmp_path):
    root = data_root(tmp_path / "data", "msrvtt_qa")
    records = json.loads((root / "msrvtt_qa/test_qa.json").read_text())
    path = lines(tmp_path / "a.jsonl", [{"id": record["id"], "answer": record["answer"]} for record in records])
    assert score(root, path, task="msrvtt_qa")[0] == 0
    assert read_results(tmp_path / "out")["tasks"]["msrvtt_qa"]["metrics"]["accuracy"]["value"] == 100


def test_an_id_that_stands_twice_in_a_mapping(pope, tmp_path, capsys):
    """JSON readers keep the last value in silence."""
    path = tmp_path / "twice.json"
    path.write_text(json.dumps(LABELS)[:-1] + ', "1": "no"}')
    assert score(pope, path)[0] == 2
    assert "holds 1 ids twice ('1')" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_a_number_that_is_none_is_no_answer(pope, tmp_path, capsys, value):
    path = lines(tmp_path / "nan.jsonl", [llava(number, text) for number, text in LABELS.items()])
    path.write_text(path.read_text().replace('"text": "yes"', f'"text": {value}', 1))
    assert score(pope, path)[0] == 2
    assert "line 1: 'text' is" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["x" * 300, "loop", "file/out"])
def test_an_output_that_cannot_be(pope, tmp_path, capsys, out):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    path = lines(tmp_path / "a.jsonl", [llava(number, text) for number, text in LABELS.items()])
    assert score(pope, path, "--output", str(tmp_path / out))[0] == 2
    assert "nothing can be written there" in capsys.readouterr().err
