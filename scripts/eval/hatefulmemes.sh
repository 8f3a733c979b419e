#!/usr/bin/env bash
# Hateful Memes (dev (seen)).
#   bash scripts/eval/hatefulmemes.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate hatefulmemes "$@"
