#!/usr/bin/env bash
# Run GGUF bundles with a real llama.cpp on this machine's CPU, and compare its answers with the Predictor's.
#   LLAMA_SERVER=llama-server   a server that is there already. Default: the one that is built here, from the sources
#                               that come with the converters (needs cmake and a C++ compiler; 10 minutes on 2 cores)
# Arguments go to scripts/check_llamacpp.py.
set -euo pipefail
cd "$(dirname "$0")/.."
build="playground/.llamacpp"
server="${LLAMA_SERVER:-$build/bin/llama-server}"

if [ -z "${LLAMA_SERVER:-}" ]; then
    echo "== building llama.cpp's server in $build"
    converters='from llava_mocle.export.gguf import find_converters; print(find_converters())'
    cmake -S "$(.venv/bin/python -c "$converters")" -B "$build" -DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=OFF \
        -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_APP=OFF \
        -DLLAMA_OPENSSL=OFF -DGGML_OPENMP=OFF >"$build.log" 2>&1 || { tail "$build.log" >&2; exit 1; }
    cmake --build "$build" --target llama-server -j "$(nproc)" >>"$build.log" 2>&1 || { tail "$build.log" >&2; exit 1; }
fi

exec env PYTHONPATH=. .venv/bin/python scripts/check_llamacpp.py --llama-server "$server" "$@"
