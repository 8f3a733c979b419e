#!/usr/bin/env bash
# VQA-RAD (test).
#   bash scripts/eval/vqa_rad.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vqa_rad "$@"
