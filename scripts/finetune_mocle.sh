#!/usr/bin/env bash
# Stage 2: train projector + MoCLE experts + gates + cluster embedding on your LLaVA data.
#
#   bash scripts/finetune_mocle.sh [RECIPE] [--key value ...]
#
# RECIPE defaults to the paper's LLaVA-1.5-7B recipe. Every key of the recipe is also a flag, which wins over the file:
#
#   bash scripts/finetune_mocle.sh scripts/recipes/llava_v1_5_7b_mocle.yaml \
#       --data_path my/rows.json --image_folder my/images --output_dir runs/mine --cluster_model runs/mine_clusters
#
# The instructions are clustered first, if the recipe's cluster model is not there yet. If a run was interrupted, the
# same command goes on from its newest checkpoint. NPROC=n sets the number of processes on this machine (default: its
# visible GPUs, at least 1). For several machines, see docs/distributed.md.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=scripts/launch.sh
source "$here/launch.sh"

recipe="$here/recipes/llava_v1_5_7b_mocle.yaml"
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    recipe="$1"
    shift
fi
only_shows "$recipe" "$@"
resolve "$recipe" "$@"
prepare "$resolved"
launch "$resolved"
