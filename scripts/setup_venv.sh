#!/usr/bin/env bash
# Make .venv and install this project into it, once: again only when pyproject.toml or this script changes.
#   PYTHON=python3.11         the interpreter to use
#   TORCH_INDEX_URL=URL       where to find PyTorch's CPU wheels, if pip's own configuration does not know them
set -euo pipefail
cd "$(dirname "$0")/.."

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.13 python3; do
        if [ -n "$candidate" ] && command -v "$candidate" >/dev/null 2>&1 \
            && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python make ..." >&2
    exit 1
}

stamp=".venv/.installed-$(cat pyproject.toml scripts/setup_venv.sh | cksum | cut -d' ' -f1)"
[ -f "$stamp" ] && exit 0

python="$(find_python)"
echo "== setting up .venv with $("$python" --version)"
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)

extras="dev,demo"
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "== a GPU is here: PyTorch with CUDA, and DeepSpeed"
    "${pip[@]}" "torch==2.13.0"
    extras="$extras,deepspeed"
elif [ "$(uname -s)" = Linux ]; then
    # The plain name would pull several GB of CUDA packages, so ask for the CPU build by its full version.
    index=()
    [ -n "${TORCH_INDEX_URL:-}" ] && index=(--extra-index-url "$TORCH_INDEX_URL")
    if ! "${pip[@]}" "${index[@]}" "torch==2.13.0+cpu"; then
        echo "== PyTorch's CPU build was not found; set TORCH_INDEX_URL to the CPU index that PyTorch's install page" \
            "names to avoid the CUDA packages. Going on with the default build." >&2
        "${pip[@]}" "torch==2.13.0"
    fi
else
    "${pip[@]}" "torch==2.13.0"
fi
"${pip[@]}" -e ".[$extras]"
rm -f .venv/.installed-*
touch "$stamp"
echo "== done: source .venv/bin/activate, or use .venv/bin/llava-mocle"
