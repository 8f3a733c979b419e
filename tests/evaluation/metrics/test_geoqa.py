import pytest

from llava_mocle.evaluation.metrics.geoqa import geoqa_letter


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer:B", "B"),
        ("Because of this. Answer:C", "C"),
        ("Therefore, the correct answer is option D.", "D"),
        ("Thus option A is selected.", "A"),
        ("So the answer is option C", "C"),
        ("Therefore the answer is (B) 14.", "B"),
        ("The angle is 30 degrees. So it is C.", "C"),
        ("so it is C.", "C"),
        # in order: an earlier statement wins wherever it stands
        ("the answer is (A), so option B is selected. Answer:C", "C"),
        ("the answer is (A), so option B is selected.", "B"),
        ("option B is selected, no, the correct answer is option A.", "A"),
        ("the answer is (A). the answer is option D.", "D"),
        # the first place of a statement
        ("Answer:A Answer:B", "A"),
        # case and spaces count
        ("Answer: B", None),
        ("answer:B", None),
        ("The answer is (B)", None),
        ("The answer is (B).", None),
        ("The correct answer is option B", None),
        ("Option B is selected", None),
        ("option b is selected", None),
        # only A to D
        ("Answer:E", None),
        ("so it is E.", None),
        # "is X" only in the last sentence that a period ends
        ("It is C. That was clear.", None),
        ("so it is C", None),
        ("First. so it is C", None),
        ("It is A. so it is C.", "C"),
        ("It is A. so it is C. and more", "C"),
        # "is" and the letter may be parts of words
        ("The triangle is ABC.", "A"),
        ("This Book.", "B"),
        ("B", None),
        ("B.", None),
        ("", None),
        (".", None),
        ("\u7b54\u6848B\u3002", None),
        ("42", None),
    ],
)
def test_letter(text, expected):
    assert geoqa_letter(text) == expected
