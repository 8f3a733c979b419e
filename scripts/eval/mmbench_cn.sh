#!/usr/bin/env bash
# MMBench-CN (dev_cn_20231003).
#   bash scripts/eval/mmbench_cn.sh MODEL [--limit N ...]
set -euo pipefail
source "$(dirname "$0")/evaluate.sh"
evaluate mmbench_cn "$@"
