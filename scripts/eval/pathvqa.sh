#!/usr/bin/env bash
# PathVQA (test).
#   bash scripts/eval/pathvqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate pathvqa "$@"
