#!/usr/bin/env bash
# A-OKVQA MC, val: bash scripts/eval/aokvqa_mc.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" aokvqa_mc "$@"
