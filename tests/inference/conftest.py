"""Tiny models, built once a test session."""

from pathlib import Path

import pytest

from llava_mocle.inference import Predictor
from tests.inference import tiny


@pytest.fixture(scope="session")
def base_dir(tmp_path_factory) -> Path:
    return tiny.write_base(tmp_path_factory.mktemp("inference") / "base")


@pytest.fixture(scope="session")
def encoder_dir(base_dir) -> Path:
    return tiny.write_encoder(base_dir.parent / "encoder")


@pytest.fixture(scope="session")
def checkpoint_dir(base_dir, encoder_dir) -> Path:
    return tiny.write_checkpoint(base_dir.parent / "mocle", base_dir, encoder_dir)


@pytest.fixture(scope="session")
def predictor(checkpoint_dir) -> Predictor:
    return Predictor.from_pretrained(checkpoint_dir, device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def images(base_dir) -> list[Path]:
    return tiny.write_images(base_dir.parent / "images", 6)
