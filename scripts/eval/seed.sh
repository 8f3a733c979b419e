#!/usr/bin/env bash
# SEED-Bench (images and videos).
#   bash scripts/eval/seed.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate seed_bench "$@"
