#!/usr/bin/env bash
# MMBench-CN, dev_cn_20231003: bash scripts/eval/mmbench_cn.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" mmbench_cn "$@"
