#!/usr/bin/env bash
# InstructBLIP: train Q-Former, query tokens, language projection, MoCLE experts, gates and cluster embedding.
#
#   bash scripts/finetune_instructblip_mocle.sh [RECIPE] [--key value ...]
#
# It is finetune_mocle.sh with the paper's InstructBLIP recipe as its default; all that is said there holds here. The rows
# of that recipe are made by scripts/data/instructblip.sh.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"

recipe="$here/recipes/instructblip_vicuna_7b_mocle.yaml"
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
    recipe="$1"
    shift
fi
exec bash "$here/finetune_mocle.sh" "$recipe" "$@"
