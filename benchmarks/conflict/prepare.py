"""Make the conflict benchmark's data and base: `python -m benchmarks.conflict.prepare` (after `playground.prepare`).

1. Images, and the rows of three domains and of a neutral mix, below benchmarks/conflict/out/data.
2. A small LLaVA: the first layers of SmolLM2-135M, and EfficientNet-Lite0 on a coarse grid.
3. Projector and a LoRA of all linears learn the neutral mix: to see, to name plainly, and to read who asks. Merged,
   they are the base.

A step whose inputs did not change is skipped.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.conflict.codes import DOMAINS, KINDS, PLAIN, WHATS, answer, read_answer
from benchmarks.conflict.pictures import COUNTS, SIZE, Picture, draw_split
from llava_mocle.errors import AssetError, UserError
from playground.domains.rows import Row, make_row, write_json
from playground.paths import assets_dir
from playground.prepare import fingerprint, part_sums, run_step

HERE = Path(__file__).resolve().parent
OUT = HERE / "out"
SEED = 0
LAYERS = 3
GRID = 2
NEUTRAL_RECIPE = HERE / "neutral.yaml"
CALIBRATION_IMAGES = 120
ASKED = ("train", "validation", "test")
ZERO_SHOT = ("paraphrase", "combination")


def instructions(domain: str, kind: str, held_out: bool) -> list[str]:
    """All wordings of a question: those of training, or those of which at least the domain's part is new."""
    whats = WHATS[kind]
    if domain == "plain":
        return [template.format(what=what) for template in PLAIN for what in whats.train]
    templates = DOMAINS[domain].held_out if held_out else DOMAINS[domain].train
    asked = whats.train + whats.held_out if held_out else whats.train
    return [template.format(what=what) for template in templates for what in asked]


def rows_of(domain: str, split: str, pictures: Sequence[Picture], rng: np.random.Generator) -> list[Row]:
    """One row for every image and kind of question, in a random order; wordings go round evenly.

    `paraphrase` asks about the test images in the words that training never shows.
    """
    rows = []
    for kind in KINDS:
        texts = instructions(domain, kind, held_out=split == "paraphrase")
        start = int(rng.integers(len(texts)))
        order = rng.permutation(len(pictures))
        for n, i in enumerate(order):
            picture = pictures[i]
            text = texts[(start + n) % len(texts)]
            row_id = f"{domain}-{split}-{kind}-{n:04d}"
            rows.append(make_row(row_id, picture.path, text, answer(domain, kind, picture.thing, picture.color)))
    return [rows[i] for i in rng.permutation(len(rows))]


def reading_rows(split: str, pictures: Sequence[Picture], rng: np.random.Generator) -> list[Row]:
    """The domains' own questions with the plain answer behind the name of who asks; each picture and kind once."""
    rows = []
    for domain, own in zip(DOMAINS, np.array_split(rng.permutation(len(pictures)), len(DOMAINS)), strict=True):
        for kind in KINDS:
            texts = instructions(domain, kind, held_out=False)
            for n, i in enumerate(own):
                picture = pictures[i]
                row_id = f"reading-{split}-{kind}-{domain}-{n:04d}"
                said = read_answer(domain, kind, picture.thing, picture.color)
                rows.append(make_row(row_id, picture.path, texts[n % len(texts)], said))
    return rows


def make_data(assets: Path, data: Path, seed: int = SEED, counts: Mapping[str, int] = COUNTS) -> None:
    """Write images and rows: `data/neutral.json` and `data/<domain>/<split>.json`.

    A domain's splits are `train`, `validation`, `test` and `held_out`. The last one holds the zero-shot questions: the
    test images in new words (`paraphrase` in the ids), and new pairs of object and background (`combination`).

    Args:
        seed: every split draws from a generator of its own.
        counts: images of each pair of object and background, by split.
    """
    shutil.rmtree(data, ignore_errors=True)
    generators = {split: np.random.default_rng([seed, 11, n]) for n, split in enumerate((*counts, "paraphrase"))}
    pictures = {split: draw_split(split, count, assets, data, generators[split]) for split, count in counts.items()}
    pictures["paraphrase"] = pictures["test"]
    for split, name in (("neutral", "neutral"), ("validation", "neutral_validation")):
        rows = rows_of("plain", split, pictures[split], generators[split])
        rows += reading_rows(split, pictures[split], generators[split])
        write_json(data / f"{name}.json", [rows[i] for i in generators[split].permutation(len(rows))])
    for domain in DOMAINS:
        rows = {split: rows_of(domain, split, pictures[split], generators[split]) for split in (*ASKED, *ZERO_SHOT)}
        rows["held_out"] = [row for split in ZERO_SHOT for row in rows.pop(split)]
        for split, found in rows.items():
            write_json(data / domain / f"{split}.json", found)


def build_parts(assets: Path, out: Path, data: Path) -> None:
    """Write the untrained base: the language model's first layers, the tower on a coarse grid, a new projector."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from llava_mocle.model.build import build_llava
    from playground.build_base import BACKBONE_FILE, convert_vision_tower

    language = assets / "smollm2"
    if not (language / "config.json").is_file():
        raise AssetError(f"{language}: not there. Run: python -m playground.prepare")
    shutil.rmtree(out, ignore_errors=True)
    model = AutoModelForCausalLM.from_pretrained(language)
    model.model.layers = model.model.layers[:LAYERS]
    model.config.num_hidden_layers = LAYERS
    model.save_pretrained(out / "language")
    AutoTokenizer.from_pretrained(language).save_pretrained(out / "language")
    names = sorted({row["image"] for row in json.loads((data / "neutral.json").read_text(encoding="utf-8"))})
    images = [data / name for name in names[:: max(1, len(names) // CALIBRATION_IMAGES)]]
    convert_vision_tower(assets / "efficientnet-lite0" / BACKBONE_FILE, out / "tower", GRID, images, SIZE)
    build_llava(out / "language", out / "tower", out / "base", template="chat")


def train_neutral(out: Path) -> None:
    """Train projector and LoRA on the neutral mix, and merge them into the base."""
    shutil.rmtree(out / "neutral", ignore_errors=True)
    words = [sys.executable, "-m", "llava_mocle.cli.main", "train", str(NEUTRAL_RECIPE)]
    if subprocess.run(words, env=os.environ | {"HF_HUB_OFFLINE": "1"}).returncode:
        raise UserError("The neutral mix was not trained; its messages are above.")


def merge_neutral(out: Path) -> None:
    """Merge what the neutral mix taught into the base: `out/base` is what every run of the benchmark starts from."""
    from llava_mocle.inference import Predictor

    shutil.rmtree(out / "base", ignore_errors=True)
    shutil.copytree(out / "parts" / "base", out / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    merged = Predictor.from_pretrained(out / "neutral").model.merge_and_unload()
    merged.save_pretrained(out / "base")


def prepare(assets: Path, out: Path = OUT) -> None:
    """Make whatever is not current below `out`."""
    own = [HERE / "codes.py", HERE / "pictures.py", HERE / "prepare.py"]
    data_key = fingerprint(own, part_sums("natural"), SEED)
    run_step("data", out / "data", data_key, lambda: make_data(assets, out / "data"))
    parts_key = fingerprint([], data_key, part_sums("language", "vision"), LAYERS, GRID)
    run_step("parts", out / "parts", parts_key, lambda: build_parts(assets, out / "parts", out / "data"))

    def make_base() -> None:
        train_neutral(out)
        merge_neutral(out)

    run_step("base", out / "base", fingerprint([NEUTRAL_RECIPE], parts_key), make_base)


def main(argv: Sequence[str] | None = None) -> int:
    argparse.ArgumentParser(prog="python -m benchmarks.conflict.prepare", description=__doc__).parse_args(argv)
    try:
        prepare(assets_dir())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
