#!/usr/bin/env bash
# IconQA, multi-text-choice test: bash scripts/eval/iconqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" iconqa "$@"
