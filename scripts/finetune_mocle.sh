#!/usr/bin/env bash
# Stage 2: train projector + MoCLE experts + gates + cluster embedding on your LLaVA data.
#
#   bash scripts/finetune_mocle.sh [RECIPE] [--key value ...]
#
# RECIPE defaults to the paper's LLaVA-1.5-7B recipe. Every key of the recipe is a flag, and wins over the file:
#
#   bash scripts/finetune_mocle.sh scripts/recipes/llava_v1_5_7b_mocle.yaml \
#       --data_path my/rows.json --image_folder my/images --output_dir runs/mine --cluster_model runs/mine_clusters
#
# Instructions are clustered first, if the recipe's cluster model is not there yet. An interrupted run goes on from its
# newest checkpoint when called again. NPROC=n sets the processes of this machine (default: its visible GPUs, at least 1).
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=scripts/launch.sh
source "$here/launch.sh"

recipe="$here/recipes/llava_v1_5_7b_mocle.yaml"
if [ $# -gt 0 ] && [[ "$1" != --* ]]; then
    recipe="$1"
    shift
fi
for word in "$@"; do
    case "$word" in
        -h | --help | --dry-run) exec "${LLAVA_MOCLE[@]}" train "$recipe" "$@" ;;
    esac
done
resolved="$(mktemp -d)/recipe.yaml"
trap 'rm -rf "$(dirname "$resolved")"' EXIT
"${LLAVA_MOCLE[@]}" train "$recipe" "$@" --resolve "$resolved"
"${LLAVA_MOCLE[@]}" data check "$resolved" --no-images --allow-duplicate-ids
"${LLAVA_MOCLE[@]}" cluster --recipe "$resolved"
launch train "$resolved"
