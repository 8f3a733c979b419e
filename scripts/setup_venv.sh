#!/usr/bin/env bash
# Make .venv and install this project into it. It does so again only if pyproject.toml or this script has changed.
#   PYTHON=python3.11         the interpreter to use
#   TORCH=cuda|cpu            which build of PyTorch to install. Set it if this machine is not the one that trains,
#                             such as a login node without GPU. Default: what was set before, or else CUDA if
#                             nvidia-smi finds a GPU
#   TORCH_INDEX_URL=URL       where PyTorch's CPU wheels are, if pip's own configuration does not know them
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
# It contains the build that was set; later calls without TORCH keep it.
named="${TORCH:-$(cat .venv/.installed-* 2>/dev/null || true)}"
case "$named" in
    "" | cuda | cpu) ;;
    *)
        echo "error: TORCH is $named, expected cuda or cpu; leave it out to go by this machine's GPUs" >&2
        exit 2
        ;;
esac
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$named" ] && exit 0

python="$(find_python)"
echo "== setting up .venv with $("$python" --version)"
# A failed attempt leaves a folder without pip (on Debian, without the package python3-venv).
.venv/bin/python -m pip --version >/dev/null 2>&1 || "$python" -m venv --clear .venv
pip=(.venv/bin/python -m pip --disable-pip-version-check)

extras="dev,demo,qlora,gguf,serve"
[ "$(uname -s)" = Linux ] && extras="$extras,deepspeed"
build="$named" why="TORCH=$named"
if [ -z "$build" ]; then
    build=cpu why="nvidia-smi finds no GPU here; TORCH=cuda make setup takes the CUDA build all the same"
    if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
        build=cuda why="nvidia-smi finds a GPU here"
    fi
fi
torch=torch==2.13.0
if [ "$(uname -s)" != Linux ]; then
    echo "== PyTorch for $(uname -s)"
    "${pip[@]}" install --quiet "$torch"
elif [ "$build" = cuda ]; then
    echo "== PyTorch with CUDA ($why)"
    # For pip, an installed CPU build is the same version, so it would keep it.
    if [[ "$("${pip[@]}" show torch 2>/dev/null)" == *+cpu* ]]; then "${pip[@]}" uninstall --quiet -y torch; fi
    "${pip[@]}" install --quiet "$torch"
else
    echo "== PyTorch's CPU build ($why)"
    # The version without "+cpu" would install several GB of CUDA packages.
    index="${TORCH_INDEX_URL:-https://download.pytorch.org/whl/cpu}"
    if ! "${pip[@]}" install --quiet "$torch+cpu" 2>/dev/null \
        && ! "${pip[@]}" install --quiet --extra-index-url "$index" "$torch+cpu"; then
        echo "== PyTorch's CPU build was not found; going on with the default build (several GB of CUDA packages)." >&2
        "${pip[@]}" install --quiet "$torch"
    fi
fi
"${pip[@]}" install --quiet -e ".[$extras]"
rm -f .venv/.installed-*
echo "$named" >"$stamp"
echo "== done: source .venv/bin/activate, or use .venv/bin/llava-mocle"
