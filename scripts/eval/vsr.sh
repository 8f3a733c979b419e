#!/usr/bin/env bash
# VSR (zero-shot test).
#   bash scripts/eval/vsr.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vsr "$@"
