#!/usr/bin/env bash
# MSRVTT-QA (test).
#   bash scripts/eval/msrvtt_qa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate msrvtt_qa "$@"
