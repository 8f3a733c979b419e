"""The tiny run's fixtures; the processes that a test starts end with it."""

from collections.abc import Iterator

import pytest

from tests.tiny_instructblip import (  # noqa: F401
    instructblip_base,
    instructblip_clusters,
    instructblip_recipe,
    instructblip_rows,
)
from tests.tiny_run import base, clusters, encoder, mix, recipe_file  # noqa: F401
from tests.training import ranks


@pytest.fixture(autouse=True)
def _ranks_end() -> Iterator[None]:
    yield
    ranks.end_all()
