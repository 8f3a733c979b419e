#!/usr/bin/env bash
# VizWiz val, val: bash scripts/eval/vizwiz_val.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vizwiz_val "$@"
