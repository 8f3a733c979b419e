import json

import pytest
from PIL import Image

from llava_mocle.errors import DataError
from llava_mocle.evaluation.suite import SuiteSettings, TasksFailed
from llava_mocle.evaluation.tasks.held_out import answer_priors, evaluate_rows
from tests.evaluation.fakes import FakePredictor


def row(number, question, answer, **extra):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"r{number}", "conversations": turns, **extra}


def turns(*said, **extra):
    return {"id": "x", "conversations": [{"from": role, "value": text} for role, text in said], **extra}


@pytest.fixture
def shapes(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    return [
        row(0, "<image>\nWhat shape?", "circle", image="a.png"),
        row(1, "<image>\nWhat colour is it?", "Red.", image="a.png"),
        row(2, "<image>\nWhat shape is it?", "a square", image="a.png"),
        row(3, "Is it blue?", "no"),
    ]


ANSWERS = {
    "<image>\nWhat shape?": "The circle",
    "<image>\nWhat colour is it?": "blue",
    "<image>\nWhat shape is it?": "square",
    "Is it blue?": " ...",
}


def test_benchmarks_results_are_not_replaced(tmp_path, shapes):
    (tmp_path / "results.json").write_text('{"kind": "benchmarks"}')
    with pytest.raises(DataError, match="'benchmarks'"):
        evaluate_rows(FakePredictor(ANSWERS), {"shapes": (shapes, tmp_path)}, tmp_path, SuiteSettings(overwrite=True))
    assert (tmp_path / "results.json").read_text() == '{"kind": "benchmarks"}'
    assert not (tmp_path / "answers").exists()


@pytest.mark.parametrize("name", ["my shapes", "v1 (2)", "数学"])
def test_a_domain_may_have_any_name_that_a_dataset_may_have(tmp_path, shapes, name):
    evaluate_rows(FakePredictor(ANSWERS), {name: (shapes, tmp_path)}, tmp_path / "out")
    assert (tmp_path / "out" / "answers" / f"{name}.jsonl").is_file()


@pytest.mark.parametrize("name", ["a/b", "..", "", "half \ud83d"])
def test_a_domain_with_a_name_that_no_file_can_have(tmp_path, shapes, name):
    with pytest.raises(DataError, match=r"the name (holds|is|begins).*; it becomes a file's"):
        evaluate_rows(FakePredictor(ANSWERS), {name: (shapes, tmp_path)}, tmp_path / "out")


def test_scores_by_hand(tmp_path, shapes):
    """Answers 0 and 2 are right, 1 is wrong, 3 is empty. Training answers: no x 3, circle x 2; "What shape?" -> circle.

    Majority "no" is right for row 3 alone: 1/4. Question prior: rows 0 (circle) and 3 (no, seen) are right: 2/4.
    Prompt lengths 19, 26, 25, 11 give clusters 1, 2, 1, 2.
    """
    train = [
        row(10, "<image> What shape?", "Circle"),
        row(11, "<image>\nWhat shape?", "circle."),
        *(row(12 + number, "Is it blue?", "no") for number in range(3)),
    ]
    results = evaluate_rows(
        FakePredictor(ANSWERS), {"shapes": (shapes, tmp_path)}, tmp_path / "out", train_rows={"shapes": train}
    )
    domain = results["domains"]["shapes"]
    assert (domain["n"], domain["score"], domain["unparsed"]) == (4, 0.5, 1)
    assert domain["interval"][0] < 0.5 < domain["interval"][1]
    assert (domain["majority"]["answer"], domain["majority"]["score"]) == ("no", 0.25)
    assert domain["question_prior"]["score"] == 0.5
    assert {name: (c["n"], c["score"]) for name, c in domain["clusters"].items()} == {"1": (2, 1.0), "2": (2, 0.0)}
    assert domain["item_scores"] == "1 0 1 0"
    assert results["mean"] == 0.5
    assert results["versions"]["torch"]
    assert results["command"].strip()
    assert json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8")) == results


def test_rows_are_routed_by_the_training_rule_and_told_their_dataset(tmp_path, shapes):
    predictor = FakePredictor()
    evaluate_rows(predictor, {"shapes": (shapes, tmp_path)}, tmp_path / "out")
    request = predictor.batches[0][0]
    assert request.route_text == "routed: <image>\nWhat shape?"
    assert request.dataset == "shapes"
    assert request.images == (tmp_path / "a.png",)


def test_domains_limit_and_resumption(tmp_path, shapes):
    domains = {"shapes": (shapes, tmp_path), "words": ([row(0, "2 + 2?", "4"), row(1, "3 + 3?", "6")], "")}
    first = FakePredictor(ANSWERS)
    limited = evaluate_rows(first, domains, tmp_path / "out", SuiteSettings(limit=1))
    assert [limited["domains"][name]["n"] for name in domains] == [1, 1]
    second = FakePredictor(ANSWERS | {"2 + 2?": "four", "3 + 3?": "6"})
    results = evaluate_rows(second, domains, tmp_path / "out")
    assert sum(len(batch) for batch in second.batches) == 4
    # "2 + 2?" keeps the answer of the first run ("6 letters").
    assert results["domains"]["words"]["item_scores"] == "0 1"
    assert results["domains"]["words"]["majority"] is None
    assert sum(cluster["n"] for cluster in results["clusters"].values()) == 6
    with pytest.raises(DataError, match="another@1"):
        evaluate_rows(FakePredictor(model_id="another@1"), domains, tmp_path / "out")


def test_a_domain_without_rows_is_refused_before_any_work(tmp_path, shapes):
    predictor = FakePredictor()
    with pytest.raises(DataError, match="words: there are no held-out rows"):
        evaluate_rows(predictor, {"shapes": (shapes, tmp_path), "words": ([], "")}, tmp_path / "out")
    assert predictor.batches == []


def test_a_domain_that_fails_costs_no_answer_of_the_others(tmp_path, shapes):
    class Full(FakePredictor):
        def predict_batch(self, requests, **settings):
            if any(request.dataset == "shapes" for request in requests):
                raise RuntimeError("out of memory")
            return super().predict_batch(requests, **settings)

    domains = {"shapes": (shapes, tmp_path), "words": ([row(0, "2 + 2?", "4")], "")}
    with pytest.raises(TasksFailed, match="shapes: RuntimeError: out of memory"):
        evaluate_rows(Full(), domains, tmp_path / "out")
    # No mean over some of the domains.
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["answers"]
    predictor = FakePredictor()
    assert list(evaluate_rows(predictor, domains, tmp_path / "out")["domains"]) == ["shapes", "words"]
    assert sum(map(len, predictor.batches)) == 4


def test_another_models_results_are_replaced_only_when_asked(tmp_path, shapes):
    domains, other = {"shapes": (shapes, tmp_path)}, FakePredictor(model_id="another@1")
    evaluate_rows(FakePredictor(), domains, tmp_path / "out")
    with pytest.raises(DataError, match=r"results\.json: is of the model fake@00000000, but this run's is another@1"):
        evaluate_rows(other, domains, tmp_path / "out")
    assert other.batches == []
    results = evaluate_rows(other, domains, tmp_path / "out", SuiteSettings(overwrite=True))
    assert results["model_id"] == "another@1"


def test_the_digest_tells_items_apart(tmp_path, shapes):
    def digest(rows, name):
        results = evaluate_rows(FakePredictor(ANSWERS), {"shapes": (rows, tmp_path)}, tmp_path / name)
        return results["domains"]["shapes"]["items_digest"]

    assert digest(shapes, "a") == digest(shapes, "b")
    assert digest(shapes, "a") != digest([*shapes[:3], row(3, "Is it blue?", "yes")], "c")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"conversations": []}, r"shapes, row 4: no 'id'"),
        ({"id": 1, "conversations": [{"from": "gpt", "value": "x"}]}, r"shapes, row 4 \(id 1\), .*: found no answer"),
        ({"id": 1, "conversations": [{"from": "human", "value": "x"}]}, r"row 4 \(id 1\), .*: found no answer"),
        (
            turns(("human", "a?"), ("human", "b?"), ("gpt", "b")),
            r"row 4 \(id 'x'\), conversations\[1\].from: found 'hum",
        ),
        (turns(("gpt", "hi"), ("human", "a?")), r"row 4 \(id 'x'\), conversations\[1\]: found no answer after it"),
        (row(9, "<image>?", "x", image=["a.png", "a.png"]), r"row 4 \(id 'r9'\), image: found 1 <image> tag"),
        (row(9, "a?", "x", image="a.png"), r"row 4 \(id 'r9'\), image: found 0 <image> tags"),
        (row(9, "a?", "x", route_text="\ud83d"), r"row 4 \(id 'r9'\), route_text: found half a surrogate pair"),
        (turns(("human", "a? \ud83d"), ("gpt", "b")), r"row 4 \(id 'x'\), conversations\[0\].value: found half a"),
        (row(0, "again?", "x"), "question_id 'r0' stands 2 times"),
        (row(9, "<image>?", "x", image="none.png"), r"shapes, row 4: .*none.png"),
    ],
)
def test_bad_rows_are_named_before_any_work(tmp_path, shapes, bad, message):
    predictor = FakePredictor()
    with pytest.raises(DataError, match=message):
        evaluate_rows(predictor, {"fine": ([row(0, "a?", "b")], ""), "shapes": ([*shapes, bad], tmp_path)}, tmp_path)
    assert predictor.batches == []
    assert not (tmp_path / "answers").exists()


def test_domain_names_become_file_names(tmp_path):
    with pytest.raises(DataError, match=r"'\.\./up'"):
        evaluate_rows(FakePredictor(), {"../up": ([row(0, "a?", "b")], "")}, tmp_path)


GREETED = [("gpt", "Hello! <image> How can I help?"), ("human", "<image>\nWhat shape?"), ("gpt", "circle")]


def test_a_greeting_is_neither_asked_nor_the_reference(tmp_path, shapes):
    """Training drops a first turn by gpt; the score, the majority answer and the question prior do the same."""
    rows = [turns(*GREETED, image="a.png")]
    train = [turns(*GREETED, image="a.png"), turns(*GREETED, image="a.png"), row(1, "<image>\nWhat shape?", "square")]
    results = evaluate_rows(
        FakePredictor(ANSWERS), {"shapes": (rows, tmp_path)}, tmp_path / "out", train_rows={"shapes": train}
    )
    domain = results["domains"]["shapes"]
    assert domain["score"] == 1.0
    assert (domain["majority"]["answer"], domain["majority"]["score"]) == ("circle", 1.0)
    assert domain["question_prior"]["score"] == 1.0
    assert answer_priors(train) == ("circle", {"What shape?": "circle"})


def test_the_first_question_is_asked_with_its_own_images(tmp_path, shapes):
    for name in "bcd":
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png")
    talk = [("human", "<image>Compare <image>"), ("gpt", "same"), ("human", "And <image>?"), ("gpt", "other")]
    later = [("human", "What do you see?"), ("gpt", "nothing"), ("human", "<image>\nNow?"), ("gpt", "a cat")]
    rows = [
        turns(*talk, image=["a.png", "b.png", "c.png"]) | {"id": "two and one"},
        turns(*later, image="d.png") | {"id": "later"},
        turns(("gpt", "<image>"), *later[2:], image=["d.png"]) | {"id": "greeted"},
    ]
    predictor = FakePredictor()
    results = evaluate_rows(predictor, {"shapes": (rows, tmp_path)}, tmp_path / "out")
    asked = [(request.prompt, [path.name for path in request.images]) for request in predictor.batches[0]]
    assert asked == [
        ("<image>Compare <image>", ["a.png", "b.png"]),
        ("What do you see?", []),
        ("<image>\nNow?", ["d.png"]),
    ]
    assert results["domains"]["shapes"]["n"] == 3


def test_training_rows_of_baselines_are_checked():
    with pytest.raises(DataError, match=r"training row 1 \(id 'x'\), conversations\[1\]: found no answer after it"):
        answer_priors([row(0, "a?", "b"), turns(("gpt", "hi"), ("human", "a?"))])


def test_ties_go_to_the_alphabet():
    rows = [row(0, "a?", "pear"), row(1, "b?", "apple")]
    assert answer_priors(rows) == answer_priors(rows[::-1])
    assert answer_priors(rows)[0] == "apple"
    with pytest.raises(DataError, match="empty"):
        answer_priors([])
