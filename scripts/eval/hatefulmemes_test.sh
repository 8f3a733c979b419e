#!/usr/bin/env bash
# Hateful Memes (test) (test (seen)).
#   bash scripts/eval/hatefulmemes_test.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate hatefulmemes_test "$@"
