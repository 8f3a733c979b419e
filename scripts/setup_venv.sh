#!/usr/bin/env bash
# Make .venv and install this project into it, once: again only when pyproject.toml or this script changes.
#   PYTHON=python3.11         the interpreter to use
#   TORCH_INDEX_URL=URL       where PyTorch's CPU wheels are, when pip's own configuration does not know them
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
# A folder without pip is what a failed attempt leaves behind (Debian: the package python3-venv was missing).
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
pip=(.venv/bin/python -m pip install --quiet --disable-pip-version-check)

extras="dev,demo"
[ "$(uname -s)" = Linux ] && extras="$extras,deepspeed"
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    echo "== a GPU is here: PyTorch with CUDA"
    "${pip[@]}" "torch==2.13.0"
elif [ "$(uname -s)" = Linux ]; then
    # The plain name would pull several GB of CUDA packages, so ask for the CPU build by its full version.
    index="${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
    if ! "${pip[@]}" "torch==2.13.0+cpu" 2>/dev/null \
        && ! "${pip[@]}" --extra-index-url "$index" "torch==2.13.0+cpu"; then
        echo "== PyTorch's CPU build was not found; going on with the default build (several GB of CUDA packages)." >&2
        "${pip[@]}" "torch==2.13.0"
    fi
else
    "${pip[@]}" "torch==2.13.0"
fi
"${pip[@]}" -e ".[$extras]"
rm -f .venv/.installed-*
touch "$stamp"
echo "== done: source .venv/bin/activate, or use .venv/bin/llava-mocle"
