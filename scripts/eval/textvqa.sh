#!/usr/bin/env bash
# TextVQA (val).
#   bash scripts/eval/textvqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate textvqa "$@"
