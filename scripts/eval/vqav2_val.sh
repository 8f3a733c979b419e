#!/usr/bin/env bash
# VQAv2 val, val: bash scripts/eval/vqav2_val.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vqav2_val "$@"
