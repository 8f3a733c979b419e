#!/usr/bin/env bash
# GQA, testdev balanced: bash scripts/eval/gqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" gqa "$@"
