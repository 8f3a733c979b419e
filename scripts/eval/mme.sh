#!/usr/bin/env bash
# MME, all: bash scripts/eval/mme.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" mme "$@"
