import pytest

from llava_mocle.evaluation.metrics.medical import closed_match, legacy_closed_match, open_recall


@pytest.mark.parametrize(
    ("answer", "reference", "strict", "legacy"),
    [
        ("the right lung", "right lung", 1.0, 1.0),
        ("lung", "right lung", 0.5, 0.5),
        ("heart", "right lung", 0.0, 0.0),
        ("", "right lung", 0.0, 0.0),
        ("It is in the Right Lung.", "right lung", 1.0, 1.0),
        ("X-ray", "x ray", 1.0, 1.0),
        ("two", "2", 1.0, 1.0),
        # The answer repeats a word: 3 "right" count 3 hits against 2 misses, 3 / (3 + 2).
        ("right right right", "right upper lobe", 1 / 3, 3 / 5),
        # 2 / (2 + 1) instead of 1 of 2.
        ("lung and lung", "right lung", 1 / 2, 2 / 3),
        # The reference repeats a word: the answer has it once; 1 of 2, but 1 / (1 + 0).
        ("left", "left left", 1 / 2, 1.0),
        # 2 of 3 words ("left" twice, asked for twice) and the miss "lobe": the same on both sides.
        ("left left", "left left lobe", 2 / 3, 2 / 3),
        # 4 hits, 1 miss: 4 / 5; strictly 2 of 3.
        ("left left left left", "left left lobe", 2 / 3, 4 / 5),
        # All article: strictly the raw words decide, the legacy reference is empty.
        ("A", "a", 1.0, 0.0),
        ("B", "a", 0.0, 0.0),
        ("anything", "", 0.0, 0.0),
    ],
)
def test_open(answer, reference, strict, legacy):
    assert open_recall(answer, reference) == pytest.approx(strict)
    assert open_recall(answer, reference, legacy=True) == pytest.approx(legacy)


@pytest.mark.parametrize(
    ("answer", "reference", "strict", "legacy"),
    [
        ("Yes", "yes", 1.0, 1.0),
        ("No.", "No", 1.0, 1.0),
        # A wrong yes or no: wrong, but left out there.
        ("yes", "no", 0.0, None),
        ("No, it is not", "yes", 0.0, None),
        # The first word decides; there, any letters do.
        ("Yes, there is no fracture", "yes", 1.0, 1.0),
        ("Yes, there is no fracture", "no", 0.0, 1.0),
        ("There is no fracture", "no", 1.0, 1.0),
        ("I would say yes", "yes", 1.0, 1.0),
        ("it is yes and no", "yes", None, 1.0),
        ("The heart is abnormal", "no", None, 1.0),
        ("The heart is normal", "yes", None, None),
        ("nothing", "no", None, 1.0),
        ("normal", "no", None, 1.0),
        # Neither yes nor no in the answer: wrong there, whatever the reference is.
        ("MRI", "mri", 1.0, 0.0),
        ("The MRI.", "MRI", 1.0, 0.0),
        ("CT", "MRI", 0.0, 0.0),
        ("left lung", "lung", 0.0, 0.0),
        ("maybe", "yes", None, 0.0),
        ("", "yes", None, 0.0),
        ("", "MRI", None, 0.0),
        # "no" hides in "abnormal": a right answer is right, and a wrong one is left out.
        ("abnormal", "abnormal", 1.0, 1.0),
        ("abnormal", "healthy", 0.0, None),
    ],
)
def test_closed(answer, reference, strict, legacy):
    assert closed_match(answer, reference) == strict
    assert legacy_closed_match(answer, reference) == legacy


@pytest.mark.parametrize(
    ("answer", "reference", "until_2023", "since"),
    [
        # The gate is "yes" or "no" by letters; behind it the reference is looked for by letters.
        ("yes", "yes", 1, 1),
        ("no", "yes", None, 0),  # dropped, and since December 2023 wrong
        ("maybe", "yes", 0, 0),
        ("MRI", "mri", 0, 0),
        ("not an MRI", "mri", 1, 1),
        ("abnormal", "healthy", None, 0),
    ],
)
def test_closed_answers_before_and_after_llava_meds_change(answer, reference, until_2023, since):
    hits = {"until_2023": [], "since": []}
    said, wanted = answer.lower(), reference.lower()
    if "yes" in said or "no" in said:
        if wanted in said:
            hits["until_2023"].append(1)
            hits["since"].append(1)
        else:
            hits["since"].append(0)
    else:
        hits["until_2023"].append(0)
        hits["since"].append(0)
    assert hits == {"until_2023": [] if until_2023 is None else [until_2023], "since": [since]}
    assert legacy_closed_match(answer, reference) == until_2023
    assert (legacy_closed_match(answer, reference) or 0.0) == since
