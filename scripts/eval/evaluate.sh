#!/usr/bin/env bash
# evaluate.sh TASKS MODEL [flags of llava-mocle eval]: what the scripts beside it start, on all visible GPUs.
#
# Files lie below playground/data/eval, in LLaVA's layout (DATA_ROOT names another folder): `llava-mocle eval prepare TASK`
# says which, where they come from, and what is missing. Results go to MODEL/eval (OUTPUT names another folder), and a run
# that was stopped continues where it was. NPROC=n sets the processes of this machine.
set -euo pipefail
# shellcheck source=scripts/launch.sh
source "$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/launch.sh"

tasks="${1:-}" model="${2:-}"
if [ -z "$model" ] || [[ "$model" == -* ]]; then
    usage_error "usage: bash scripts/eval/NAME.sh MODEL [flags of llava-mocle eval, such as --limit 100]"
fi
command=(-m llava_mocle.cli.main eval --model "$model" --tasks "$tasks" --output "${OUTPUT:-$model/eval}"
    --data-root "${DATA_ROOT:-playground/data/eval}" "${@:3}")
count="${NPROC:-$(visible_gpus)}"
if [ "${count:-0}" -gt 1 ]; then
    "$python" -m torch.distributed.run --standalone --nproc_per_node "$count" "${command[@]}"
else
    "$python" "${command[@]}"
fi
