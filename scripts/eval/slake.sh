#!/usr/bin/env bash
# SLAKE (English test).
#   bash scripts/eval/slake.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate slake "$@"
