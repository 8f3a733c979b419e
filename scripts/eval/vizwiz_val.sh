#!/usr/bin/env bash
# VizWiz val (val).
#   bash scripts/eval/vizwiz_val.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vizwiz_val "$@"
