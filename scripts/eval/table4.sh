#!/usr/bin/env bash
# The benchmarks of the paper's Table 4 (LLaVA-1.5).
#   bash scripts/eval/table4.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate mme,mmbench,scienceqa,geoqa,vqa_rad,slake,pathvqa "$@"
