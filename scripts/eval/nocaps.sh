#!/usr/bin/env bash
# NoCaps (val).
#   bash scripts/eval/nocaps.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate nocaps "$@"
