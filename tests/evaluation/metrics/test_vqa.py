import random

import pytest

from llava_mocle.evaluation.metrics.vqa import (
    accuracies,
    half_accuracy,
    min_over_three,
    normalize_vqa,
    soft_accuracy,
    vizwiz_api_accuracy,
    vqa_accuracy,
)

# Worked out by hand from the published rules, not recorded.
NORMALIZED = [
    # case, spaces, line breaks
    ("Yes", "yes"),
    ("  RED  ", "red"),
    ("red\nblue", "red blue"),
    ("red\tand   blue", "red and blue"),
    ("red\u00a0blue", "red blue"),
    ("", ""),
    ("   \n\t ", ""),
    # articles, as whole words only
    ("the dog", "dog"),
    ("a cat and an owl", "cat and owl"),
    ("A", ""),
    ("The", ""),
    ("theatre", "theatre"),
    ("anna", "anna"),
    ("vitamin a", "vitamin"),
    # number words from none to ten
    ("none", "0"),
    ("Zero", "0"),
    ("one", "1"),
    ("Two dogs", "2 dogs"),
    ("three four five six seven", "3 4 5 6 7"),
    ("eight nine ten", "8 9 10"),
    ("eleven", "eleven"),
    ("twenty-one", "twenty 1"),
    ("someone", "someone"),
    ("no one", "no 1"),
    ("one-third", "1 third"),
    # periods: gone unless a digit follows
    ("yes.", "yes"),
    ("3.5", "3.5"),
    ("3.5.", "3.5"),
    ("3.", "3"),
    (".5", ".5"),
    ("u.s.a.", "usa"),
    ("v.2", "v.2"),
    ("10:30 a.m.", "10:30 am"),
    ("two.three", "twothree"),
    ("...", ""),
    # commas: a comma between digits drops every mark, all over the text
    ("1,000", "1000"),
    ("1,000,000", "1000000"),
    ("1,5", "15"),
    ("1, 5", "1 5"),
    ("1,000-2,000", "10002000"),
    ("t-shirts: 1,000", "tshirts: 1000"),
    ("red,blue", "red blue"),
    ("red, blue", "red blue"),
    ("x,y, z", "xy z"),
    ("\uff11,\uff10", "\uff11\uff10"),
    # a mark becomes a space, or is dropped where one of its kind touches a space
    ("black/white", "black white"),
    ("black / white", "black white"),
    ("black/white / red", "blackwhite red"),
    ("x-ray", "x ray"),
    ("x-ray - front", "xray front"),
    ("5-3", "5 3"),
    ("-5", "5"),
    ("what?!", "what"),
    ("yes!no", "yes no"),
    ("stop! go!now", "stop gonow"),
    ("(left)", "left"),
    ("arm (left)", "arm left"),
    ("f(x)=y", "f x y"),
    ("[b] {c} <d>", "b c d"),
    ("a+b", "b"),
    ("A+", ""),
    ("under_score", "under score"),
    ("back\\slash", "back slash"),
    ("me@home", "me home"),
    ("`tick`", "tick"),
    ("red;blue", "red blue"),
    # quotes: the double one goes; apostrophe, colon and the rest stay
    ('"stop"', "stop"),
    ('it says "stop"now', "it says stopnow"),
    ("'stop'", "'stop'"),
    ("girl's", "girl's"),
    ("2:50 pm", "2:50 pm"),
    ("time: noon", "time: noon"),
    ("50%", "50%"),
    ("$5 & #1*", "$5 & #1*"),
    ("\u201cstop\u201d", "\u201cstop\u201d"),
    # contractions get their apostrophe back
    ("dont", "don't"),
    ("Cant!", "can't"),
    ("don't", "don't"),
    ("don\u2019t", "don\u2019t"),
    ("wouldnt've", "wouldn't've"),
    ("couldn'tve", "couldn't've"),
    ("yall'd've", "y'all'd've"),
    ("ow's'at", "'ow's'at"),
    ("somebody'd", "somebodyd"),
    ("oclock", "o'clock"),
    ("twas", "'twas"),
    ("hes here", "he's here"),
    ("its", "its"),
    ("Im", "im"),  # the table has "Im", but only after lower-casing is it looked up
    ("were", "were"),
    ("well", "well"),
    ("isnt,it", "isn't it"),
    # beyond ASCII
    ("Caf\u00e9", "caf\u00e9"),
    ("\u6771\u4eac", "\u6771\u4eac"),
    ("\u00c9COLE", "\u00e9cole"),
    ("90\u00b0", "90\u00b0"),
]


@pytest.mark.parametrize(("text", "expected"), NORMALIZED)
def test_normalize(text, expected):
    assert normalize_vqa(text) == expected


def test_at_most_32_periods_go():
    """The official code passes re.UNICODE, 32, where the number of replacements stands."""
    assert normalize_vqa("." * 32 + "yes") == "yes"
    assert normalize_vqa("." * 33 + "yes") == ".yes"


def leave_one_out(answer, annotations):
    scores = []
    for left_out in range(len(annotations)):
        others = [other for index, other in enumerate(annotations) if index != left_out]
        scores.append(min(1.0, others.count(answer) / 3))
    return sum(scores) / len(scores)


@pytest.mark.parametrize("agreeing", range(11))
def test_soft_accuracy_of_ten(agreeing):
    annotations = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
    random.Random(agreeing).shuffle(annotations)
    assert soft_accuracy("cat", annotations) == pytest.approx(leave_one_out("cat", annotations), abs=1e-12)


def test_soft_accuracy_by_hand():
    # Two of ten: left out among the two (2 times) one remains, 1/3; else (8 times) two remain, 2/3.
    assert soft_accuracy("cat", ["cat"] * 2 + ["dog"] * 8) == pytest.approx((2 / 3 + 8 * 2 / 3) / 10)
    # Three of ten: 3 times 2/3, 7 times 1; four are full marks.
    assert soft_accuracy("cat", ["cat"] * 3 + ["dog"] * 7) == pytest.approx(0.9)
    assert soft_accuracy("cat", ["cat"] * 4 + ["dog"] * 6) == 1.0


@pytest.mark.parametrize("total", [1, 2, 3, 5, 9])
def test_soft_accuracy_of_any_number(total):
    rng = random.Random(total)
    for _ in range(20):
        annotations = [rng.choice(["cat", "dog"]) for _ in range(total)]
        assert soft_accuracy("cat", annotations) == pytest.approx(leave_one_out("cat", annotations), abs=1e-12)


def official(answer, annotations):
    """The steps of vqaEval.py's `evaluate` one by one, on records with ids as in the official annotations."""
    records = [{"answer": text, "answer_id": number} for number, text in enumerate(annotations, start=1)]
    for record in records:
        record["answer"] = record["answer"].replace("\n", " ").replace("\t", " ").strip()
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    if len({record["answer"] for record in records}) > 1:
        for record in records:
            record["answer"] = normalize_vqa(record["answer"])
        answer = normalize_vqa(answer)
    marks = []
    for left_out in records:
        others = [record for record in records if record != left_out]
        marks.append(min(1, sum(record["answer"] == answer for record in others) / 3))
    return sum(marks) / len(marks)


@pytest.mark.parametrize(
    ("answer", "annotations", "expected"),
    [
        # Three of ten: left out among the three (3 times) two remain, 2/3; else full marks: (3 * 2/3 + 7) / 10.
        ("cat", ["cat"] * 3 + ["dog"] * 7, 0.9),
        ("cat", ["cat"] * 2 + ["dog"] * 8, 0.6),
        ("cat", ["cat"] + ["dog"] * 9, 0.3),
        ("cat", ["cat"] * 4 + ["dog"] * 6, 1.0),
        # All wrote the same: raw texts are compared.
        ("yes", ["yes"] * 10, 1.0),
        ("Yes", ["yes"] * 10, 0.0),
        ("yes.", ["yes"] * 10, 0.0),
        ("the cat", ["cat"] * 10, 0.0),
        ("two", ["2"] * 10, 0.0),
        ("The Cat", ["The Cat"] * 10, 1.0),
        # White space goes before that, and does not make two texts of one.
        (" yes\n", ["yes"] * 10, 1.0),
        ("yes", ["yes"] * 9 + ["yes "], 1.0),
        ("Yes", ["yes"] * 9 + ["\tyes "], 0.0),
        # One other text, if only a capital, and both sides are normalised.
        ("Yes.", ["yes"] * 9 + ["Yes"], 1.0),
        ("the two", ["2"] * 9 + ["3"], 1.0),
        # Nothing is left of "a" nor of silence.
        ("", ["a"] * 5 + ["A"] * 5, 1.0),
        ("", ["a"] * 10, 0.0),
        ("", ["yes"] * 5 + ["no"] * 5, 0.0),
    ],
)
def test_the_official_accuracy(answer, annotations, expected):
    assert vqa_accuracy(answer, annotations) == pytest.approx(expected, abs=1e-12)
    assert official(answer, annotations) == pytest.approx(expected, abs=1e-12)


def test_the_official_accuracy_of_any_texts():
    rng = random.Random(0)
    texts = ["yes", "Yes", "yes.", " yes", "no", "a", "the 2", "two", ""]
    for _ in range(300):
        given = [rng.choice(texts[: rng.choice((1, 2, 9))]) for _ in range(10)]
        answer = rng.choice(texts)
        assert vqa_accuracy(answer, given) == pytest.approx(official(answer, given), abs=1e-12), (answer, given)


def test_vizwiz_own_api_normalises_the_answer_alone():
    assert vizwiz_api_accuracy("Blue.", ["blue"] * 4 + ["red"] * 6) == 1.0
    assert vizwiz_api_accuracy("Blue", ["Blue"] * 10) == 0.0
    # Three of ten wrote it as the normaliser does; seven with a capital.
    assert vizwiz_api_accuracy("blue", ["blue"] * 3 + ["Blue"] * 7) == pytest.approx(0.9)


def test_silence_is_an_empty_text():
    assert accuracies(vqa_accuracy, [["yes"] * 10, ["a"] * 9 + ["A"]], [None, None]) == [0.0, 1.0]


def test_both_sides_are_normalised():
    annotations = ["Two.", "2", "two", "the two", "3", "3", "3", "3", "3", "3"]
    assert soft_accuracy("a TWO!", annotations) == 1.0
    assert soft_accuracy("Yes.", ["yes"] * 10) == 1.0
    assert soft_accuracy("unanswerable", ["Unanswerable"] * 6 + ["blue"] * 4) == 1.0
    assert soft_accuracy("", ["yes"] * 10) == 0.0


def test_nobody_left_out():
    annotations = ["cat", "Cat", "dog", "the cat", "cow"]
    assert min_over_three("cat", annotations) == 1.0
    assert min_over_three("dog", annotations) == pytest.approx(1 / 3)
    assert min_over_three("cow.", annotations) == pytest.approx(1 / 3)
    assert min_over_three("pig", annotations) == 0.0
    for agreeing, gap in [(0, 0.0), (1, 1 / 30), (2, 2 / 30), (3, 0.1), (4, 0.0), (10, 0.0)]:
        ten = ["cat"] * agreeing + ["dog"] * (10 - agreeing)
        assert min_over_three("cat", ten) - soft_accuracy("cat", ten) == pytest.approx(gap)
    # As A-OKVQA's own code compares: letter by letter.
    assert min_over_three("cat", annotations, normalize=str) == pytest.approx(1 / 3)


def test_half_accuracy():
    annotations = ["cut", "Cut.", "slice", "chop", "mix"]
    assert half_accuracy("the cut", annotations) == 1.0
    assert half_accuracy("mix", annotations) == 0.5
    assert half_accuracy("stir", annotations) == 0.0


@pytest.mark.parametrize("score", [soft_accuracy, vqa_accuracy, vizwiz_api_accuracy, min_over_three, half_accuracy])
@pytest.mark.parametrize("annotations", [[], "yes"])
def test_annotations_are_a_list_of_texts(score, annotations):
    with pytest.raises(ValueError, match="expected the annotators' answers"):
        score("yes", annotations)
