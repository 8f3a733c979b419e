"""Settings of every test: no hub, one thread a process (two pytest workers share two cores), an own cache."""

import atexit
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if version("torch").endswith("+cpu"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training refuses a CPU build beside GPUs
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "LLAVA_MOCLE_CACHE" not in os.environ:
    # Made by the first process; the workers and the commands it starts have it from the environment.
    os.environ["LLAVA_MOCLE_CACHE"] = tempfile.mkdtemp(prefix="llava_mocle_tests_")
    atexit.register(shutil.rmtree, os.environ["LLAVA_MOCLE_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def _left_as_found() -> Iterator[None]:
    """Undo what a run in this process leaves: variables of a launcher, and the verbosity of `log_level`.

    Without this, a test may hold only before or only after another one, and workers share the tests out as it comes.
    """
    library = logging.getLogger("transformers")
    variables, level = os.environ.copy(), library.level
    yield
    now = os.environ.copy()
    for name in {name for name, _ in variables.items() ^ now.items()} - {"PYTEST_CURRENT_TEST"}:
        if name in variables:
            os.environ[name] = variables[name]
        else:
            del os.environ[name]
    library.setLevel(level)
