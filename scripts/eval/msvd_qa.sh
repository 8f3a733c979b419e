#!/usr/bin/env bash
# MSVD-QA, test: bash scripts/eval/msvd_qa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" msvd_qa "$@"
