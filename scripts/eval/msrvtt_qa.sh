#!/usr/bin/env bash
# MSRVTT-QA, test: bash scripts/eval/msrvtt_qa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" msrvtt_qa "$@"
