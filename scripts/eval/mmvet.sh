#!/usr/bin/env bash
# MM-Vet (v1).
#   bash scripts/eval/mmvet.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate mm_vet "$@"
