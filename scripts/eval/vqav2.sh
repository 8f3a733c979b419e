#!/usr/bin/env bash
# VQAv2, test-dev: bash scripts/eval/vqav2.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vqav2 "$@"
