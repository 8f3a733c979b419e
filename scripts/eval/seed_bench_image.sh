#!/usr/bin/env bash
# SEED-Bench (image), images: bash scripts/eval/seed_bench_image.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" seed_bench_image "$@"
