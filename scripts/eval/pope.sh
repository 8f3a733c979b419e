#!/usr/bin/env bash
# POPE (adversarial, popular, random).
#   bash scripts/eval/pope.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate pope "$@"
