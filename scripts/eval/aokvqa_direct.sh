#!/usr/bin/env bash
# A-OKVQA direct, val: bash scripts/eval/aokvqa_direct.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" aokvqa_direct "$@"
