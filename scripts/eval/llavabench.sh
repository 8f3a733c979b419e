#!/usr/bin/env bash
# LLaVA-Bench (Wild), all: bash scripts/eval/llavabench.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" llava_bench "$@"
