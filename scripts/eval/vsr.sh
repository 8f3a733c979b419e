#!/usr/bin/env bash
# VSR, zero-shot test: bash scripts/eval/vsr.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vsr "$@"
