#!/usr/bin/env bash
# GQA (testdev balanced).
#   bash scripts/eval/gqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate gqa "$@"
