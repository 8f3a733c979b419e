#!/usr/bin/env bash
# Flickr30k (Karpathy test).
#   bash scripts/eval/flickr30k.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate flickr30k "$@"
