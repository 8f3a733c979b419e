"""Settings of every test: no hub, one thread a process (two pytest workers share two cores), an own cache."""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if version("torch").endswith("+cpu"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # training refuses a CPU build beside GPUs
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "LLAVA_MOCLE_CACHE" not in os.environ:
    # Made by the first process; the workers and the commands it starts have it from the environment.
    os.environ["LLAVA_MOCLE_CACHE"] = tempfile.mkdtemp(prefix="llava_mocle_tests_")
    atexit.register(shutil.rmtree, os.environ["LLAVA_MOCLE_CACHE"], ignore_errors=True)
