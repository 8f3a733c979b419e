#!/usr/bin/env bash
# VQAv2 val (val).
#   bash scripts/eval/vqav2_val.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vqav2_val "$@"
