#!/usr/bin/env bash
# MME (all).
#   bash scripts/eval/mme.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate mme "$@"
