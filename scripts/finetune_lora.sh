#!/usr/bin/env bash
# The single-LoRA baseline: same data, same code, one expert and no gates.
#
#   bash scripts/finetune_lora.sh [RECIPE] [--key value ...]
#
# It takes a MoCLE recipe and sets `adapter: lora`. Give it another --output_dir than the MoCLE run's.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=scripts/launch.sh
source "$here/launch.sh"

recipe="$here/recipes/llava_v1_5_7b_mocle.yaml"
output=(--output_dir checkpoints/llava-v1.5-7b-lora)
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    recipe="$1"
    output=()
    shift
fi
set -- --adapter lora ${output[@]+"${output[@]}"} "$@" # bash before 4.4 takes an empty array for unset
only_shows "$recipe" "$@"
resolve "$recipe" "$@"
launch "$resolved"
