#!/usr/bin/env bash
# SEED-Bench (image) (images).
#   bash scripts/eval/seed_bench_image.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate seed_bench_image "$@"
