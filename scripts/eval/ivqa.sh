#!/usr/bin/env bash
# iVQA, test: bash scripts/eval/ivqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" ivqa "$@"
