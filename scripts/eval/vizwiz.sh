#!/usr/bin/env bash
# VizWiz, test: bash scripts/eval/vizwiz.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" vizwiz "$@"
