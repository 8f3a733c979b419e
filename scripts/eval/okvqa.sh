#!/usr/bin/env bash
# OK-VQA, val2014: bash scripts/eval/okvqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" okvqa "$@"
