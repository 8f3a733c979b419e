#!/usr/bin/env bash
# Flickr30k, Karpathy test: bash scripts/eval/flickr30k.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" flickr30k "$@"
