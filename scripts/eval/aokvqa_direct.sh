#!/usr/bin/env bash
# A-OKVQA direct (val).
#   bash scripts/eval/aokvqa_direct.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate aokvqa_direct "$@"
