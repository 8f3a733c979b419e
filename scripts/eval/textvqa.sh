#!/usr/bin/env bash
# TextVQA, val: bash scripts/eval/textvqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" textvqa "$@"
