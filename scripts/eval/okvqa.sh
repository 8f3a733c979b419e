#!/usr/bin/env bash
# OK-VQA (val2014).
#   bash scripts/eval/okvqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate okvqa "$@"
