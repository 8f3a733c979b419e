#!/usr/bin/env bash
# Hateful Memes, dev (seen): bash scripts/eval/hatefulmemes.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" hatefulmemes "$@"
