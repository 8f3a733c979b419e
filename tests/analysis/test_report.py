import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from llava_mocle.analysis.report import Baseline, describe_clusters, score_difference, write_report
from llava_mocle.errors import DataError
from llava_mocle.evaluation.tasks.held_out import evaluate_rows
from tests.evaluation.fakes import FakePredictor

EVIL = "<script>alert('x')</script> & \"quotes\""


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    VOID = frozenset({"meta", "img"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.text = [], [], [], ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def rows(answers):
    return [
        {"id": i, "conversations": [{"from": "human", "value": f"q{i}?"}, {"from": "gpt", "value": answer}]}
        for i, answer in enumerate(answers)
    ]


@pytest.fixture
def results(tmp_path):
    """20 questions whose answer is "no": 5 right before (rows 0 to 4), 15 after (rows 0 to 14)."""
    domains = {"shapes": (rows(["no"] * 20), "")}
    train = {"shapes": rows([EVIL] * 3)}
    before = FakePredictor({f"q{i}?": "no" for i in range(5)}, model_id="before@1")
    after = FakePredictor({f"q{i}?": "no" for i in range(15)}, model_id="after@1")
    return (
        evaluate_rows(before, domains, tmp_path / "before", train_rows=train),
        evaluate_rows(after, domains, tmp_path / "after", train_rows=train),
    )


@pytest.fixture
def picture(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), dtype=np.uint8)).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def write(tmp_path, results, picture, **changes):
    small = tmp_path / "small.png"
    Image.new("RGB", (20, 10), "red").save(small)
    values = {
        "title": f"Report {EVIL}",
        "subtitle": EVIL,
        "before": results[0],
        "after": tmp_path / "after" / "results.json",
        "figures": [(f"Heatmap {EVIL}", small)],
        "samples": [
            {"domain": EVIL, "image": str(picture), "prompt": f"<image>\n{EVIL}", "reference": EVIL}
            | {"before": "", "after": EVIL, "cluster": 2},
            {
                "domain": "text",
                "prompt": "No image?",
                "reference": "no",
                "before": "yes",
                "after": "No.",
                "cluster": None,
            },
        ],
        "facts": {EVIL: EVIL},
        "clusters": [{"cluster": 0, "size": 1234, "nearest": [EVIL, "plain"]}],
    } | changes
    text = write_report(tmp_path / "out" / "report.html", **values).read_text(encoding="utf-8")
    return text, Page(text)


def test_all_text_is_escaped_and_shown(tmp_path, results, picture):
    text, page = write(tmp_path, results, picture)
    assert "<script" not in text
    assert "script" not in page.tags
    # title, heading, subtitle, fact name and value, nearest instruction, caption, domain, question, reference, answer
    assert page.text.count(EVIL) == 11
    assert ("alt", f"Heatmap {EVIL}") in page.attributes
    assert not any(name.startswith("on") for name, _ in page.attributes)


def test_the_page_is_self_contained_and_small(tmp_path, results, picture):
    text, page = write(tmp_path, results, picture)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) == 2
    assert all(source.startswith("data:image/") for source in sources)
    # The 1200 x 900 noise is 3 MB as it is.
    assert len(text) < 250_000
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["report.html"]


def test_scores_difference_and_marks(tmp_path, results, picture):
    text, page = write(tmp_path, results, picture)
    assert "25.0" in page.text
    assert "75.0" in page.text
    assert '<span class="up">+50.0</span>' in text
    assert page.text.count("✓") == 2
    assert page.text.count("✗") == 1
    assert "(empty)" in page.text
    assert "1,234" in page.text
    assert "before@1" in page.text
    assert "after@1" in page.text


def test_without_a_before(tmp_path, results, picture):
    text, page = write(tmp_path, results, picture, before=None, samples=(), clusters=(), figures=())
    assert "− before" not in text
    assert ">before<" not in text
    assert "75.0" in page.text


def test_a_baseline_has_its_column_its_difference_and_its_answers(tmp_path, results, picture):
    """The baseline is right on rows 0 to 9, the reported run on rows 0 to 14."""
    fake = FakePredictor({f"q{i}?": "no" for i in range(10)}, model_id="lora@1")
    lora = evaluate_rows(fake, {"shapes": (rows(["no"] * 20), "")}, tmp_path / "lora")
    samples = [{"domain": "text", "prompt": "q?", "reference": "no", "before": "yes", "baseline": "no", "after": "no"}]
    baseline = Baseline(f"single LoRA {EVIL}", lora, note="One seed decides nothing.")
    text, page = write(tmp_path, results, picture, name="MoCLE", baseline=baseline, samples=samples)
    assert "<script" not in text
    for said in ("50.0", "75.0", "+50.0", "+25.0", f"MoCLE − single LoRA {EVIL}", "MoCLE − before", "lora@1"):
        assert said in page.text
    assert '<span class="up">+25.0</span>' in text
    assert "One seed decides nothing." in page.text
    assert page.text.count("✓") == 2
    assert 'class="baseline" style="width:50.0%"' in text
    # Without one, nothing of it is left.
    text, _ = write(tmp_path, results, picture)
    assert 'class="baseline"' not in text
    assert 'k-baseline"' not in text


def test_differences_are_paired_where_the_items_are_the_same(results):
    first, second = (side["domains"]["shapes"] for side in results)
    difference, interval = score_difference(first, second)
    assert difference == pytest.approx(0.5)
    # 10 of 20 differences are 1, the others 0: 1.96 * 0.5 / sqrt(20) = 0.22 to each side.
    assert interval == pytest.approx([0.28, 0.72], abs=0.04)
    assert score_difference(first, second | {"items_digest": "other"}) == (0.5, None)
    assert score_difference({}, second) == (None, None)


def test_a_difference_within_its_interval_is_not_coloured(tmp_path, results, picture):
    text, _ = write(tmp_path, results, picture, before=results[1])
    assert 'class="up">+0.0' not in text
    assert "+0.0" in text


def test_missing_parts_are_named(tmp_path, results, picture):
    with pytest.raises(DataError, match=r"none\.png.*Heat"):
        write(tmp_path, results, picture, figures=[("Heat", tmp_path / "none.png")])
    (tmp_path / "other.json").write_text(json.dumps({"scores": 1}))
    for path in ("other.json", "none.json"):
        with pytest.raises(DataError, match=path):
            write(tmp_path, results, picture, after=tmp_path / path)
    assert not (tmp_path / "out").exists()


def test_clusters_are_described_from_the_cluster_model():
    class Model:
        counts = np.array([3.0, 18.0])

        def nearest_examples(self, cluster, n):
            from llava_mocle.clustering import Example

            return [Example(cluster, f"text {cluster} {i}", 1.0, 0.1) for i in range(n)]

    assert describe_clusters(Model(), examples=2) == [
        {"cluster": 0, "size": 3, "nearest": ["text 0 0", "text 0 1"]},
        {"cluster": 1, "size": 18, "nearest": ["text 1 0", "text 1 1"]},
    ]
