#!/usr/bin/env bash
# LLaVA-Bench (Wild) (all).
#   bash scripts/eval/llavabench.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate llava_bench "$@"
