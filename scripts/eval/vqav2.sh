#!/usr/bin/env bash
# VQAv2 (test-dev).
#   bash scripts/eval/vqav2.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vqav2 "$@"
