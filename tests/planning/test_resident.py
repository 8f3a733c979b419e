"""The memory of a real training process against the prediction for the same shape: float32 on the CPU."""

import json
import os
import subprocess
import sys

import pytest

BODY = {"hidden": 512, "intermediate": 1408, "layers": 8, "heads": 8, "kv_heads": 8, "vocab": 32000}


# glibc keeps freed blocks below a threshold that grows to 32 MB, which are most activations at these sizes: the process
# then holds a quarter more than was ever in use at a time. A fixed threshold makes it return them, so that what is
# measured is what is needed; a GPU's allocator has its own reserve for this (docs/plan.md).
RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "length", "model"),
    [
        pytest.param(4, 256, BODY | {"rank": 16}, id="logits"),
        pytest.param(4, 256, BODY | {"rank": 16, "checkpointing": True}, id="checkpointed"),
        pytest.param(1, 512, BODY | {"rank": 128}, id="large rank"),
        pytest.param(2, 128, BODY | {"hidden": 768, "intermediate": 2048, "rank": 256}, id="optimizer"),
        pytest.param(8, 128, BODY | {"layers": 12, "vocab": 4000, "rank": 64}, id="activations"),
    ],
)
def test_peak_of_a_training_process(samples, length, model):
    request = json.dumps({"samples": samples, "length": length, "model": model})
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.planning.train_small", request],
        capture_output=True,
        text=True,
        timeout=500,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | RETURNED,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    print(result)
    assert result["predicted"] == pytest.approx(result["measured"], rel=0.2), result
