#!/usr/bin/env bash
# ScienceQA, test: bash scripts/eval/sqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" scienceqa "$@"
