#!/usr/bin/env bash
# SEED-Bench, images and videos: bash scripts/eval/seed.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" seed_bench "$@"
