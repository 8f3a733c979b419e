"""A tiny trained model of each router, and its bundle; each is exported once a session."""

from pathlib import Path

import pytest

from llava_mocle.export.bundle import Bundle
from llava_mocle.export.request import Export
from llava_mocle.export.run import export
from tests.inference import tiny
from tests.inference.conftest import base_dir, checkpoint_dir, encoder_dir, images, predictor  # noqa: F401


@pytest.fixture(scope="session")
def bundle(checkpoint_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:  # noqa: F811
    """For vLLM, as a user gets it by default: in float32, as the base is."""
    output = tmp_path_factory.mktemp("export") / "bundle"
    return export(Export(str(checkpoint_dir), str(output)))[0]


@pytest.fixture(scope="session")
def dataset_dir(base_dir: Path, encoder_dir: Path) -> Path:  # noqa: F811
    """A model routed by dataset."""
    return tiny.write_checkpoint(base_dir.parent / "by_dataset", base_dir, encoder_dir, router="dataset")
