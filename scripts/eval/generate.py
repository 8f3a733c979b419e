"""Write the scripts of this folder: `python scripts/eval/generate.py`, after a benchmark was added or renamed.

There is one script for each benchmark, under LLaVA's name where LLaVA has one, and one for each table of the paper.
"""

from pathlib import Path

from llava_mocle.analysis.paper_tables import TABLE_4
from llava_mocle.evaluation.registry import all_tasks

LLAVA_NAMES = {"scienceqa": "sqa", "seed_bench": "seed", "mm_vet": "mmvet", "llava_bench": "llavabench"}
TABLES = {"table4": TABLE_4}
MARK = "written by generate.py"
SCRIPT = f"""\
#!/usr/bin/env bash
# {{what}}: bash scripts/eval/{{name}}.sh MODEL [--limit N ...] ({MARK})
exec bash "$(dirname "$0")/evaluate.sh" {{tasks}} "$@"
"""


def scripts() -> dict[str, str]:
    """File name -> content of every script."""
    known = {LLAVA_NAMES.get(name, name): (name, f"{task.title}, {task.split}") for name, task in all_tasks().items()}
    for name, table in TABLES.items():
        known[name] = (",".join(dict.fromkeys(column.task for column in table.columns)), table.title)
    return {f"{name}.sh": SCRIPT.format(name=name, tasks=tasks, what=what) for name, (tasks, what) in known.items()}


if __name__ == "__main__":
    folder = Path(__file__).parent
    for path in folder.glob("*.sh"):
        if MARK in path.read_text(encoding="utf-8"):
            path.unlink()
    for name, text in scripts().items():
        (folder / name).write_text(text, encoding="utf-8")
