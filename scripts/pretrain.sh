#!/usr/bin/env bash
# Stage 1: train the projector alone on image captions.
#
#   bash scripts/pretrain.sh [RECIPE] [--key value ...]
#
# RECIPE defaults to LLaVA-1.5-7B's. Every key is also a flag. `stage` is pretrain, whatever the recipe says. The
# result is output_dir/mm_projector.safetensors, which stage 2 takes as `pretrain_mm_mlp_adapter`. Stage 2 can also
# take output_dir itself as `model_name_or_path`.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=scripts/launch.sh
source "$here/launch.sh"

recipe="$here/recipes/llava_v1_5_7b_pretrain.yaml"
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    recipe="$1"
    shift
fi
set -- --stage pretrain "$@"
only_shows "$recipe" "$@"
resolve "$recipe" "$@"
launch "$resolved"
