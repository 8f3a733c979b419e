#!/usr/bin/env bash
# MSVD-QA (test).
#   bash scripts/eval/msvd_qa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate msvd_qa "$@"
