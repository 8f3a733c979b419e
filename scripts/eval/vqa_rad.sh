#!/usr/bin/env bash
# VQA-RAD, test: bash scripts/eval/vqa_rad.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vqa_rad "$@"
