#!/usr/bin/env bash
# iVQA (test).
#   bash scripts/eval/ivqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate ivqa "$@"
