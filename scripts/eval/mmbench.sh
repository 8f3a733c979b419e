#!/usr/bin/env bash
# MMBench, dev_20230712: bash scripts/eval/mmbench.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" mmbench "$@"
