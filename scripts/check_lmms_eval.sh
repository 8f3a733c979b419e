#!/usr/bin/env bash
# Score served models with a real lmms-eval, and compare the answers that it got with the Predictor's.
#   LMMS_EVAL_VENV=.venv-lmms-eval   where lmms-eval lives. It has a venv of its own, as it pins other releases than this
#                                    project; PyTorch and what else it needs are those of .venv (0.2 GB; made once)
# Arguments go to scripts/check_lmms_eval.py.
set -euo pipefail
cd "$(dirname "$0")/.."
venv="${LMMS_EVAL_VENV:-.venv-lmms-eval}"
stamp="$venv/.installed-$(cksum <scripts/check_lmms_eval.sh | cut -d' ' -f1)"

if [ ! -f "$stamp" ]; then
    echo "== setting up $venv"
    .venv/bin/python -m venv --clear "$venv"
    purelib='import sysconfig; print(sysconfig.get_paths()["purelib"])'
    .venv/bin/python -c "$purelib" >"$("$venv/bin/python" -c "$purelib")/parts_of_this_project.pth"
    pip=("$venv/bin/python" -m pip --disable-pip-version-check install --quiet)
    # Of what it needs, only what scoring over an endpoint imports. It opens filelock's parts by their former names.
    "${pip[@]}" --no-deps lmms_eval==0.7.3
    "${pip[@]}" datasets evaluate loguru pytablewriter python-dotenv sacrebleu tenacity "filelock<3.21"
    "$venv/bin/python" -c "import lmms_eval.evaluator, lmms_eval.models.chat.openai, pytablewriter"
    touch "$stamp"
fi

exec env PYTHONPATH=. .venv/bin/python scripts/check_lmms_eval.py --lmms-eval-python "$PWD/$venv/bin/python" "$@"
