#!/usr/bin/env bash
# GeoQA, test: bash scripts/eval/geoqa.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" geoqa "$@"
