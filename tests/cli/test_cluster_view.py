"""Remarks on the sizes of clusters."""

import numpy as np
import pytest

from llava_mocle.cli.cluster_view import small_clusters


@pytest.mark.parametrize(
    ("counts", "named"),
    [
        ([500, 300, 199, 1], "cluster 3 (1)"),
        ([500, 300, 9, 1], "clusters 2 (9), 3 (1)"),
        ([100_000, 60_000, 40_000, 900], "cluster 3 (900)"),  # an even share is 50,225, and a fiftieth of it 1,004
        ([100_000, 60_000, 40_000, 1_100], None),
        ([500, 300, 190, 10], None),
        ([12, 8, 5, 1], None),  # 26 rows: every cluster is small
        ([*[1000] * 8, *[1] * 7], "clusters 8 (1), 9 (1), 10 (1), 11 (1), 12 (1) and 2 more"),
    ],
)
def test_a_cluster_of_next_to_nothing_gets_a_word(counts: list[int], named: str | None) -> None:
    found = small_clusters(np.array(counts, dtype=np.float64))
    assert found is None if named is None else found.startswith(f"very small: {named}. ")
