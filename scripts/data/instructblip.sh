#!/usr/bin/env bash
# The thirteen training sets of InstructBLIP, as LLaVA rows under the paper's templates.
#
#   bash scripts/data/instructblip.sh SOURCE [--output DIR] [--images DIR] [--variants N] [--seed N] [NAME ...]
#
# SOURCE is the folder with the official files, in the places that `llava-mocle data make NAME` prints. Each set becomes
# DIR/NAME.jsonl (DIR: data/instructblip). Their image paths are relative to DIR/images (or to --images), where the images
# are linked, or copied if they lie on another disk; with --images SOURCE they stay where they are. --variants N makes N
# rows of a sample (at most 6, as many as the smallest group has templates); llava_* has no templates, so one row each.
# NAME ...: these sets only.
#
# A set whose file is there is left alone, so the same command goes on where it was stopped. A set whose official files
# are missing is reported and the others are made; the exit code is then 1.
set -euo pipefail
here="${BASH_SOURCE[0]}"
# shellcheck source=scripts/launch.sh
source "$(cd "$(dirname "$here")/.." && pwd)/launch.sh"
every=(aok_vqa aok_vqg coco_cap coco_vqa coco_vqg ocrvqa ok_vqa ok_vqg textcaps capfilt
    llava_conversation llava_detail llava_reason)

source_folder="" output="data/instructblip" images="" variants=1 seed=0 names=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            sed -n '2,/^set /s/^# \{0,1\}//p' "$here"
            exit 0
            ;;
        --output | --images | --variants | --seed)
            [ $# -gt 1 ] || usage_error "$1 needs a value"
            declare "${1#--}=$2"
            shift
            ;;
        -*) usage_error "$1 is no option; see --help" ;;
        *) if [ -z "$source_folder" ]; then source_folder="$1"; else names+=("$1"); fi ;;
    esac
    shift
done
[ -n "$source_folder" ] || usage_error "usage: bash scripts/data/instructblip.sh SOURCE [NAME ...]; see --help"
for name in "${names[@]}"; do
    [[ " ${every[*]} " == *" $name "* ]] || usage_error "$name is none of: ${every[*]}"
done
[ ${#names[@]} -gt 0 ] || names=("${every[@]}")

mkdir -p "$output"
missing=()
for name in "${names[@]}"; do
    if [ -e "$output/$name.jsonl" ]; then
        echo "$output/$name.jsonl: there already; remove it to make it again"
        continue
    fi
    command=(data make "$name" --source "$source_folder" --output "$output/$name.jsonl"
        --images "${images:-$output/images}" --seed "$seed")
    [[ "$name" == llava_* ]] || command+=(--variants "$variants")
    code=0
    "${LLAVA_MOCLE[@]}" "${command[@]}" || code=$?
    [ "$code" -le 2 ] || exit "$code" # stopped, not refused
    [ "$code" -eq 0 ] || missing+=("$name")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "not made: ${missing[*]} (the messages above say why); the same command makes them" >&2
    exit 1
fi
