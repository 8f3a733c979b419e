#!/usr/bin/env bash
# GeoQA (test).
#   bash scripts/eval/geoqa.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate geoqa "$@"
