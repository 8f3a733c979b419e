"""The tiny recipe of the training tests, and a SLURM for one module's tests."""

from collections.abc import Iterator

import pytest

from tests.scripts import slurm_cluster
from tests.tiny_run import base, clusters, encoder, mix, recipe_file

__all__ = ["base", "clusters", "encoder", "mix", "recipe_file", "slurm"]


@pytest.fixture(scope="module")
def slurm() -> Iterator[slurm_cluster.SlurmCluster]:
    reason = slurm_cluster.missing()
    if reason:
        pytest.skip(reason)
    with slurm_cluster.SlurmCluster() as cluster:
        yield cluster
