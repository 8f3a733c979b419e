"""The tiny run's fixtures."""

from tests.tiny_run import base, clusters, mix, recipe_file  # noqa: F401
