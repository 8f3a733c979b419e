#!/usr/bin/env bash
# SLAKE, English test: bash scripts/eval/slake.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" slake "$@"
