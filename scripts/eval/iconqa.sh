#!/usr/bin/env bash
# IconQA (multi-text-choice test).
#   bash scripts/eval/iconqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate iconqa "$@"
