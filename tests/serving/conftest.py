"""The tiny models of the inference tests."""

from tests.inference.conftest import base_dir, checkpoint_dir, encoder_dir, images, predictor

__all__ = ["base_dir", "checkpoint_dir", "encoder_dir", "images", "predictor"]
