#!/usr/bin/env bash
# A-OKVQA MC (val).
#   bash scripts/eval/aokvqa_mc.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate aokvqa_mc "$@"
