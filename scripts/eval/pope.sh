#!/usr/bin/env bash
# POPE, adversarial, popular, random: bash scripts/eval/pope.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" pope "$@"
