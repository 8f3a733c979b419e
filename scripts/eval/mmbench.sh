#!/usr/bin/env bash
# MMBench (dev_20230712).
#   bash scripts/eval/mmbench.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate mmbench "$@"
