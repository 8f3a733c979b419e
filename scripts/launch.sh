# Sourced by the other scripts: finds the environment, and `launch SUBCOMMAND ...` on every visible GPU.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python}"
[ -z "${PYTHON:-}" ] && [ -x "$root/.venv/bin/python" ] && python="$root/.venv/bin/python"
LLAVA_MOCLE=("$python" -m llava_mocle.cli.main)

visible_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES" | grep -c .
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true
    fi
}

launch() {
    local count="${NPROC:-$(visible_gpus)}"
    if [ "${count:-0}" -gt 1 ]; then
        "$python" -m torch.distributed.run --standalone --nproc_per_node "$count" -m llava_mocle.cli.main "$@"
    else
        "${LLAVA_MOCLE[@]}" "$@"
    fi
}
