#!/usr/bin/env bash
# NoCaps, val: bash scripts/eval/nocaps.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" nocaps "$@"
