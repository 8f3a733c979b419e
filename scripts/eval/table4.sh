#!/usr/bin/env bash
# Table 4: LLaVA-1.5-7B, general, geometry and medical benchmarks: bash scripts/eval/table4.sh MODEL [--limit N ...] (written by generate.py)
exec bash "$(dirname "$0")/evaluate.sh" mme,mmbench,scienceqa,geoqa,vqa_rad,slake,pathvqa "$@"
