import pytest

from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.captions import NoCaps
from tests.evaluation.tasks.official_files import answers_to, data_root, edited, ready_items

IMAGES = ["nocaps/val/00a1.jpg", "nocaps/val/00a2.jpg", "nocaps/val/00a3.jpg"]


def test_cider_of_all_and_by_domain(tmp_path):
    root = data_root(tmp_path, "nocaps")
    items = ready_items(NoCaps(), root, IMAGES)
    # The annotations are not in the images' order.
    assert [item.reference for item in items] == [
        ("Two red kites fly above us.",),
        ("Somebody paints this old fence.",),
        ("An otter eats shellfish.",),
    ]
    texts = ["two red kites fly above us", "Somebody paints this old fence", "Blue"]
    scores = NoCaps().score(items, answers_to(items, texts))
    # Equal to a reference whose words no other image has: 10; nothing in common: 0.
    assert scores.metrics["cider"].value == pytest.approx(100 * (10 + 10 + 0) / 3)
    assert scores.metrics["cider_in_domain"].value == pytest.approx(1000)
    assert scores.metrics["cider_near_domain"].value is None
    assert scores.metrics["cider_out_domain"].value == 0
    assert [metric.n for metric in scores.metrics.values()] == [3, 2, 0, 1]


def test_prompts(tmp_path):
    root = data_root(tmp_path, "nocaps")
    assert {item.question.prompt for item in NoCaps().items(root, "instructblip")} == {"A short image description:"}
    with pytest.raises(ValueError, match="'blip'"):
        NoCaps().items(root, "blip")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("out-domain", "far", "record 2: field 'domain' is 'far'"),
        ('"image_id": 2', '"image_id": 9', "image 2 has no caption"),
        ('"annotations"', '"captions"', "no 'annotations'"),
    ],
)
def test_wrong_files(tmp_path, old, new, message):
    root = data_root(tmp_path, "nocaps")
    edited(root / "nocaps/nocaps_val_4500_captions.json", old, new)
    with pytest.raises(DataError, match=message):
        NoCaps().items(root)
