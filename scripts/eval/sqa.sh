#!/usr/bin/env bash
# ScienceQA (test).
#   bash scripts/eval/sqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate scienceqa "$@"
