#!/usr/bin/env bash
# VizWiz (test).
#   bash scripts/eval/vizwiz.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate vizwiz "$@"
