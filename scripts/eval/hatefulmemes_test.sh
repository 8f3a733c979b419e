#!/usr/bin/env bash
# Hateful Memes (test), test (seen): bash scripts/eval/hatefulmemes_test.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" hatefulmemes_test "$@"
