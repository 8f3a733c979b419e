#!/usr/bin/env bash
# The data of scripts/recipes/llava_v1_5_7b_mocle.yaml: LLaVA-665K, Geo170K, and the medical mix.
#
#   bash scripts/data/llava_three_domains.sh SOURCE [--output DIR] [NAME ...]
#
# SOURCE is the folder with the official files, a folder a set: llava_665k, geo170k, vqa_rad, slake, pathvqa. What belongs
# into each is printed by `llava-mocle data make NAME`. DIR is playground/data, where the recipe looks:
#
#   llava_665k   DIR/llava_v1_5_mix665k.json, images in DIR
#   geo170k      DIR/geo170k.json, images in DIR/geo170k/images
#   med_mix      DIR/med_mix.json, images in DIR/medical/images
#
# Images out of archives are unpacked there; others are linked, or copied if they lie on another disk. NAME ...: these
# only. A set whose rows are there is left alone, so the same command goes on where it was stopped. A set whose official
# files are missing is reported and the others are made; the exit code is then 1.
set -euo pipefail
here="${BASH_SOURCE[0]}"
# shellcheck source=scripts/launch.sh
source "$(cd "$(dirname "$here")/.." && pwd)/launch.sh"

source_folder="" output="playground/data" names=()
while [ $# -gt 0 ]; do
    case "$1" in
        -h | --help)
            sed -n '2,/^# files are missing/s/^# \{0,1\}//p' "$here"
            exit 0
            ;;
        --output)
            [ $# -gt 1 ] || usage_error "$1 needs a value"
            output="$2"
            shift
            ;;
        -*) usage_error "$1 is no option; see --help" ;;
        *) if [ -z "$source_folder" ]; then source_folder="$1"; else names+=("$1"); fi ;;
    esac
    shift
done
[ -n "$source_folder" ] || usage_error "usage: bash scripts/data/llava_three_domains.sh SOURCE [NAME ...]; see --help"
[ ${#names[@]} -gt 0 ] || names=(llava_665k geo170k med_mix)

missing=()
# make NAME SOURCE ROWS IMAGES
make() {
    if [ -e "$3" ]; then
        echo "$3: there already; remove it to make it again"
        return
    fi
    local code=0
    "${LLAVA_MOCLE[@]}" data make "$1" --source "$2" --output "$3" --images "$4" || code=$?
    [ "$code" -le 2 ] || exit "$code" # stopped, not refused
    [ "$code" -eq 0 ] || missing+=("$1")
}
for name in "${names[@]}"; do
    case "$name" in
        llava_665k) make "$name" "$source_folder/llava_665k" "$output/llava_v1_5_mix665k.json" "$output" ;;
        geo170k) make "$name" "$source_folder/geo170k" "$output/geo170k.json" "$output/geo170k/images" ;;
        med_mix) make "$name" "$source_folder" "$output/med_mix.json" "$output/medical/images" ;;
        *) usage_error "$name is none of: llava_665k geo170k med_mix" ;;
    esac
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "not made: ${missing[*]} (the messages above say why); the same command makes them" >&2
    exit 1
fi
