#!/usr/bin/env bash
# VisDial, v1.0 val, last round: bash scripts/eval/visdial.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" visdial "$@"
