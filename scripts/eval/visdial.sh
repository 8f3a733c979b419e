#!/usr/bin/env bash
# VisDial (v1.0 val, last round).
#   bash scripts/eval/visdial.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate visdial "$@"
