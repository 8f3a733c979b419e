#!/usr/bin/env bash
# MM-Vet, v1: bash scripts/eval/mmvet.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" mm_vet "$@"
