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
        ({"id": 1, "conversations": [{"from": "gpt", "value": "x"}]}, r"row 4 \(id 1\): no 'human' turn"),
        ({"id": 1, "conversations": [{"from": "human", "value": "x"}]}, r"row 4 \(id 1\): no 'gpt' turn"),
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


def test_ties_go_to_the_alphabet():
    rows = [row(0, "a?", "pear"), row(1, "b?", "apple")]
    assert answer_priors(rows) == answer_priors(rows[::-1])
    assert answer_priors(rows)[0] == "apple"
    with pytest.raises(DataError, match="empty"):
        answer_priors([])
