#!/usr/bin/env bash
# PathVQA, test: bash scripts/eval/pathvqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" pathvqa "$@"
