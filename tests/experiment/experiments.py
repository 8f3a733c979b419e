"""Small experiments whose commands are a stand-in: a script that writes what train, cluster and eval would, at once."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from llava_mocle.experiment.design import read_design
from llava_mocle.experiment.execute import Executor
from llava_mocle.experiment.experiment import Experiment
from llava_mocle.experiment.grid import Grid
from llava_mocle.experiment.processes import Processes

# Called as `fake.py FOLDER train RECIPE`, `fake.py FOLDER cluster --recipe RECIPE` or `fake.py FOLDER eval ...`, many
# of which are parted by --then. It notes each call in FOLDER/calls. A file `fail-STEP-NAME` there makes it fail;
# `hold-STEP-NAME`, a pipe, makes it note its pid and wait until somebody has written into the pipe. NAME is the run's,
# with - for /.
FAKE = """
import json, os, struct, sys
from pathlib import Path

folder, words = Path(sys.argv[1]), sys.argv[2:]

def event(step, run):
    name = f"{step}-{run.replace('/', '-')}"
    with open(folder / "calls", "a") as calls:
        calls.write(name + "\\n")
    if (folder / f"hold-{name}").exists():
        (folder / f"pid.{name}").write_text(str(os.getpid()))
        os.rename(folder / f"pid.{name}", folder / f"held-{name}")
        open(folder / f"hold-{name}").read()
        os.unlink(folder / f"hold-{name}")
    if (folder / f"fail-{name}").exists():
        print("error: it was told to fail")
        sys.exit(2)

def run_of(path):
    return "/".join(Path(path).parent.parts[-2:])

def recipe(path):
    found = {}
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(": ")
        found[key] = value
    return found

def train(path):
    event("train", run_of(path))
    out = Path(recipe(path)["output_dir"])
    out.mkdir(parents=True, exist_ok=True)
    (out / "checkpoint-2").mkdir(exist_ok=True)
    header = json.dumps({
        "base_model.mocle_experts.a": {"dtype": "F32", "shape": [2, 5], "data_offsets": [0, 40]},
        "base_model.mocle_router.gate_weight": {"dtype": "F32", "shape": [3], "data_offsets": [40, 52]},
        "projector.weight": {"dtype": "F32", "shape": [1], "data_offsets": [52, 56]},
    }).encode()
    (out / "adapter_model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(56))
    (out / "finished.json").write_text('{"files": {}}')

def cluster(path):
    event("cluster", Path(recipe(path)["cluster_model"]).name)

def ask(flags):
    given = dict(zip(flags[::2], flags[1::2]))
    run, out = run_of(given["--recipe"]), Path(given["--output"])
    event("eval", run + "-" + out.name)
    right = json.loads((folder / "right.json").read_text()) if (folder / "right.json").exists() else {}
    domains = {}
    for line in Path(given["--recipe"]).read_text().splitlines():
        if line.strip(" -").startswith("name: "):
            name = line.split(": ")[1]
            items = right.get(f"{run}-{out.name}-{name}", "1 0 1 0 1")
            scores = [float(item) for item in items.split()]
            domains[name] = {
                "item_scores": items, "items_digest": "same", "n": len(scores), "score": sum(scores) / len(scores)
            }
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps({"kind": "held_out_exact_match", "domains": domains}))

while words:
    end = words.index("--then") if "--then" in words else len(words)
    command, words = words[:end], words[end + 1:]
    {"train": lambda: train(command[1]), "cluster": lambda: cluster(command[2]), "eval": lambda: ask(command[1:])}[
        command[0]
    ]()
"""


def write_design(
    folder: Path, mix: Sequence[dict[str, Any]], recipe: dict[str, Any] | None = None, **keys: Any
) -> Path:
    """A comparison of single_domain, lora_activated and mocle with one seed, but for the keys that are given."""
    shared = {
        "model_name_or_path": "nowhere", "output_dir": "unused", "datasets": list(mix), "num_clusters": 2, "lora_r": 4,
        "lora_alpha": 8, "num_experts": 3, "max_steps": 10, "learning_rate": 0.01, "save_strategy": "no",
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(shared | (recipe or {})))
    design = {
        "recipe": str(folder / "recipe.yaml"), "output_dir": str(folder / "experiment"), "seeds": 1,
        "methods": ["single_domain", "lora_activated", "mocle"],
    } | keys  # fmt: skip
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(design))
    return path


def open_experiment(design: Path) -> Experiment:
    return Experiment(Grid(read_design(design)))


def fake_executor(folder: Path, jobs: int = 1, **options: Any) -> Executor:
    """An executor whose commands are the stand-in, with its notes in `folder`."""
    (folder / "fake.py").write_text(FAKE)
    words = (sys.executable, "-S", str(folder / "fake.py"), str(folder))
    said: list[str] = []
    options = {"say": said.append, "program": words, "several": words} | options
    return Executor(Processes(), jobs, **options)


def calls(folder: Path) -> list[str]:
    path = folder / "calls"
    return path.read_text().split() if path.exists() else []


def say_right(folder: Path, right: dict[str, str]) -> None:
    """What the stand-in scores: "RUN-SPLIT-DOMAIN" -> the score of each question."""
    (folder / "right.json").write_text(json.dumps(right))
