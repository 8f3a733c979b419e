"""What tests of several files need."""

from tests.tiny_run import base  # noqa: F401
