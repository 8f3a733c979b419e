import json
from dataclasses import replace

import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.vizwiz import VizWiz, VizWizVal
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

VAL = [f"vizwiz/val/VizWiz_val_0000000{number}.jpg" for number in range(3)]
TEST = [f"vizwiz/test/VizWiz_test_0000000{number}.jpg" for number in range(2)]


def test_val_is_scored(tmp_path):
    root = data_root(tmp_path, "vizwiz")
    items = ready_items(VizWizVal(), root, VAL)
    assert (items[1].question.question_id, items[1].question.key) == (1, "VizWiz_val_00000001.jpg")
    assert items[1].question.prompt == (
        "What is this?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase."
    )
    assert VizWizVal().items(root, "instructblip")[1].question.prompt == "Question: What is this? Short answer:"
    scores = VizWizVal().score(items, answers_to(items, ["Unanswerable", "unanswerable.", "YES"]))
    # Three of ten: (3 * 2/3 + 7) / 10; two of ten: (2 * 1/3 + 8 * 2/3) / 10.
    assert scores.metrics["accuracy"].items == pytest.approx((0.9, 1, 0.6))
    assert scores.metrics["accuracy_api"].items == pytest.approx((0.9, 1, 0.6))
    assert scores.metrics["accuracy_min3"].items == pytest.approx((1, 1, 2 / 3))
    assert scores.metrics["accuracy_unanswerable"].value == 100
    assert scores.metrics["accuracy_yes_no"].value == pytest.approx(60)
    assert scores.metrics["accuracy_number"].value is None
    worse = VizWizVal().score(items, answers_to(items, ["", "it can't be answered", "yes it is"]))
    assert (worse.metrics["accuracy"].value, worse.unparsed) == (0, 1)


def test_val_as_lmms_eval_and_as_its_own_api(tmp_path):
    """lmms-eval normalises both sides with EvalAI's normaliser, VizWiz' own API the answer alone, with VQA's."""
    (item,) = VizWizVal().items(data_root(tmp_path, "vizwiz"))[:1]
    cases = [
        # The annotators' capital, article or comma is met by nothing there.
        ("blue", ["Blue"] * 10, 1.0, 0.0),
        ("a can", ["the can"] * 10, 1.0, 0.0),
        ("1,000", ["1000"] * 10, 1.0, 1.0),
        # EvalAI drops a comma between words, VQA's normaliser puts a space there.
        ("red,blue", ["red blue"] * 10, 0.0, 1.0),
        ("red,blue", ["redblue"] * 10, 1.0, 0.0),
        # Three of ten: (3 * 2/3 + 7) / 10.
        ("blue", ["blue"] * 3 + ["red"] * 7, 0.9, 0.9),
    ]
    for answer, given, lmms, api in cases:
        asked = replace(item, reference=tuple({"answer": text} for text in given))
        metrics = VizWizVal().score([asked], answers_to([asked], [answer])).metrics
        assert metrics["accuracy"].items == pytest.approx((lmms,)), (answer, given)
        assert metrics["accuracy_api"].items == pytest.approx((api,)), (answer, given)


def test_test_is_uploaded(tmp_path):
    root = data_root(tmp_path, "vizwiz")
    items = ready_items(VizWiz(), root, TEST)
    answers = answers_to(items, ["A can, I think", "Joe's"])
    assert VizWiz().score(items, answers).metrics["accuracy"].value is None
    (path,) = VizWiz().submission(items, answers, tmp_path / "out")
    assert json.loads(path.read_text()) == [
        {"image": "VizWiz_test_00000000.jpg", "answer": "can i think"},
        {"image": "VizWiz_test_00000001.jpg", "answer": "joe 's"},
    ]


def test_wrong_files(tmp_path):
    root = data_root(tmp_path, "vizwiz")
    path = root / "vizwiz/val.json"
    val = path.read_text()
    path.write_text((root / "vizwiz/test.json").read_text())
    with pytest.raises(DataError, match=r"record 0: image is 'VizWiz_test_00000000.jpg', expected one of val"):
        VizWizVal().items(root)
    path.write_text(val.replace('"answers"', '"said"'))
    with pytest.raises(DataError, match=r"val.json, record 0: no 'answers'"):
        VizWizVal().items(root)
    path.write_text('{"images": [], "annotations": []}')
    with pytest.raises(DataError, match="a dict, expected a list"):
        VizWizVal().items(root)
    test = (root / "vizwiz/test.json").read_text()
    (root / "vizwiz/test.json").write_text(val)
    with pytest.raises(DataError, match=r"record 0: image is 'VizWiz_val_00000000.jpg', expected one of test"):
        VizWiz().items(root)
    (root / "vizwiz/test.json").write_text(test)
    edited(root / "vizwiz/test.json", '"question"', '"text"')
    with pytest.raises(DataError, match=r"test.json, record 0: no 'question'"):
        VizWiz().items(root)
