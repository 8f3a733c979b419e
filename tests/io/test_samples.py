"""Places spread over a whole."""

from llava_mocle.io.samples import sample_places


def test_from_the_head_to_the_tail() -> None:
    assert sample_places(100, 10, 3) == [(0, 10), (45, 10), (90, 10)]
    assert sample_places(1000, 10, 5) == [(0, 10), (248, 10), (495, 10), (742, 10), (990, 10)]


def test_a_small_whole_is_covered() -> None:
    assert sample_places(25, 10, 3) == [(0, 10), (10, 10), (20, 5)]
    assert sample_places(30, 10, 3) == [(0, 10), (10, 10), (20, 10)]
    assert sample_places(0, 10, 3) == []
