"""Opening a large mix: time and memory of the first opening, the next ones, and a plain `json.load`.

Makes a mix of three datasets of LLaVA-like rows (about 400 bytes each) with cluster assignments in a temporary folder,
then opens it (rows, assignments, dataset: all that a training process does before its first step) in fresh processes:

- plain: `json.load` into lists of dicts, every row validated, tokenized and compared with its assignment one by one;
- first: nothing is cached yet, so every row is validated, rendered and tokenized; next: everything is cached.

Memory is what the process holds for itself (RssAnon: pages of mapped files are shared and can be dropped), over what it
held before; "peak" is the largest seen while opening, "resident" counts mapped pages too.

    python -m benchmarks.data_scale --rows 1000000 --repeats 3
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from llava_mocle.clustering.assign import assign_rows, read_assignments, write_assignments
from llava_mocle.clustering.instruction import InstructionRule
from llava_mocle.data.dataset import LlavaDataset
from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.row_problems import row_problems

SHARES = {"natural": 0.6, "geometry": 0.3, "text": 0.1}
TEXT = (
    "the a of red blue chair table person standing near window what is how many colour image answer question using "
    "single word or phrase describe picture in detail left right behind angle length side triangle circle"
)
WORDS = TEXT.split()
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MIB = 1 << 20


def make_rows(name: str, count: int) -> Iterator[dict[str, Any]]:
    """Rows of two to six turns; those of "text" have no image, one in 500 has a long question."""
    chosen = random.Random(name)
    for index in range(count):
        turns = chosen.choice((2, 2, 4, 4, 6))
        texts = [" ".join(chosen.choices(WORDS, k=chosen.randrange(4, 80 // turns))) for _ in range(turns)]
        if chosen.random() < 0.002:
            texts[0] *= 60
        row: dict[str, Any] = {"id": f"{name}_{index:09d}"}
        if name != "text":
            row["image"] = f"{name}/train/{index:012d}.jpg"
            texts[0] = f"<image>\n{texts[0]}"
        row["conversations"] = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        yield row


def make_mix(folder: Path, rows: int) -> int:
    """Write the datasets and their assignments. Returns the bytes of the datasets."""
    written = 0
    for name, share in SHARES.items():
        with (folder / f"{name}.json").open("w") as stream:
            for index, row in enumerate(make_rows(name, round(rows * share))):
                stream.write((",\n" if index else "[") + json.dumps(row))
            stream.write("]")
            written += stream.tell()
    tables = Mixture.load(specs(folder)).rows
    write_assignments(assign_rows(cluster_model(), tables, progress=False), folder / "assignments.parquet")
    return written


def specs(folder: Path) -> list[DatasetSpec]:
    return [DatasetSpec(name, str(folder / f"{name}.json"), repeat=1 + index) for index, name in enumerate(SHARES)]


def cluster_model() -> Any:
    """Stands in for a `ClusterModel`: its rule, and an assignment that needs no encoder."""

    def assign(texts: list[str], **_: Any) -> tuple[np.ndarray, np.ndarray]:
        return np.arange(len(texts)) % 4, np.zeros(len(texts))

    return SimpleNamespace(rule=InstructionRule(), fingerprint="benchmark", num_clusters=4, assign=assign)


def make_tokenizer() -> Any:
    """A small byte-level tokenizer with a ChatML template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        WORDS,
        trainers.BpeTrainer(
            special_tokens=["<|im_start|>", "<|im_end|>"], initial_alphabet=alphabet, show_progress=False
        ),
    )
    made = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<|im_start|>", eos_token="<|im_end|>")
    made.chat_template = CHATML
    return made


def load_plain(folder: Path) -> Mixture:
    """What reading rows takes without a table: every row parsed, validated and kept."""
    rows = {}
    for spec in specs(folder):
        rows[spec.name] = json.loads(Path(spec.data_path).read_text())
        for index, row in enumerate(rows[spec.name]):
            if any(problem.fatal for problem in row_problems(row, index)):
                raise ValueError(f"row {index} is wrong")
    return Mixture(specs(folder), rows)


def status(key: str) -> int:
    """A field of /proc/self/status, in bytes."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields[key].split()[0]) * 1024


class Peak:
    """The largest private memory seen while the block runs, read 50 times a second."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.bytes = max(self.bytes, status("RssAnon"))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.bytes = max(self.bytes, status("RssAnon"))


def open_mix(folder: Path, template: str, plain: bool) -> dict[str, Any]:
    """Open the mix in this process and measure it."""
    tokenizer = make_tokenizer()
    before, resident = status("RssAnon"), status("VmRSS")
    seconds = {}
    start = time.perf_counter()

    def lap(name: str) -> None:
        seconds[name] = time.perf_counter() - start - sum(seconds.values())

    with Peak() as peak:
        mixture = load_plain(folder) if plain else Mixture.load(specs(folder))
        lap("rows")
        ids = read_assignments(folder / "assignments.parquet", mixture.rows, cluster_model())
        lap("assignments")
        dataset = LlavaDataset(
            mixture,
            tokenizer,
            object(),
            template,
            ids,
            image_token_id=0,
            image_tokens_per_image=576,
            max_length=2048,
        )
        lap("dataset")
    samples = np.array([dataset.lengths.sum(), dataset.has_image.sum(), dataset.dropped, len(dataset)])
    return {
        "seconds": seconds | {"total": sum(seconds.values())},
        "private": status("RssAnon") - before,
        "peak": peak.bytes - before,
        "resident": status("VmRSS") - resident,
        "samples": samples.tolist(),
    }


def in_fresh_process(folder: Path, cache: Path, template: str, kind: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.data_scale", "--open", str(folder), "--template", template]
    command += ["--plain"] if kind == "plain" else []
    environment = {**os.environ, "LLAVA_MOCLE_CACHE": str(cache), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], form: Callable[[float], str]) -> str:
    ordered = sorted(values)
    return " / ".join(map(form, (ordered[0], statistics.median(ordered), ordered[-1])))


def report(found: dict[str, list[dict[str, Any]]]) -> None:
    """Print min / median / max of the repeats, and each kind's ratio to the plain one."""
    plain = found["plain"]
    for kind, runs in found.items():
        print(f"  {kind}")
        for part in ("total", "rows", "assignments", "dataset"):
            print(f"    {part + ' s':<14}{spread([run['seconds'][part] for run in runs], lambda x: f'{x:.2f}')}")
        for part in ("private", "peak", "resident"):
            print(f"    {part + ' MiB':<14}{spread([run[part] / MIB for run in runs], lambda x: f'{x:.0f}')}")
        if kind != "plain":
            time_ratio = statistics.median(run["seconds"]["total"] for run in plain) / statistics.median(
                run["seconds"]["total"] for run in runs
            )
            memory = statistics.median(run["private"] for run in plain) / statistics.median(
                max(run["private"], 1) for run in runs
            )
            same = all(run["samples"] == plain[0]["samples"] for run in runs)
            print(f"    plain over this: time {time_ratio:.1f}, private memory {memory:.0f}; same samples: {same}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=3, help="of the first and the next openings")
    parser.add_argument("--plain-repeats", type=int, default=1)
    parser.add_argument("--templates", nargs="+", default=["vicuna_v1", "chat"])
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--template", help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.open:
        print(json.dumps(open_mix(args.open, args.template, args.plain)))
        return
    with tempfile.TemporaryDirectory(prefix="data_scale_") as name:
        folder = Path(name)
        os.environ["LLAVA_MOCLE_CACHE"] = str(folder / "cache_made")
        size = make_mix(folder, args.rows)
        print(f"{args.rows} rows, {size / args.rows:.0f} bytes a row; min / median / max of the repeats", flush=True)
        for template in args.templates:
            found: dict[str, list[dict[str, Any]]] = {"plain": [], "first": [], "next": []}
            for repeat in range(args.repeats):
                cache = folder / f"cache_{template}_{repeat}"
                for kind in ("first", "next"):
                    found[kind].append(in_fresh_process(folder, cache, template, kind))
                for file in (cache / "rows").iterdir():
                    file.unlink()
                if repeat < args.plain_repeats:
                    found["plain"].append(in_fresh_process(folder, cache, template, "plain"))
            print(template)
            report(found)


if __name__ == "__main__":
    main()
