"""Fixtures of small runs: a tiny base model, a tiny mix of two datasets, and clusters fitted by a tiny encoder."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import assign_rows, write_assignments
from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.model import build_llava
from tests.clustering.encoders import make_tiny_encoder
from tests.model import parts

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210), "grey": (128, 128, 128)}
CHAT = (
    "{% for m in messages %}<s>{{ m['role'] }}\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}"
)


def _row(identity: str, question: str, answer: str, image: str | None) -> dict:
    tag = "<image>\n" if image else ""
    row = {
        "id": identity,
        "conversations": [{"from": "human", "value": tag + question}, {"from": "gpt", "value": answer}],
    }
    return row | ({"image": image} if image else {})


def write_mix(folder: Path) -> list[dict]:
    """Two datasets: pictures of one colour, some rows without a picture; and sums, all without."""
    (folder / "images").mkdir(parents=True)
    pictures, sums = [], []
    for number in range(24):
        name, colour = list(COLOURS.items())[number % 4]
        Image.new("RGB", (28 + number, 28), colour).save(folder / "images" / f"{number}.png")
        pictures.append(_row(f"p{number}", f"What colour is picture {number}?", name, f"{number}.png"))
        sums.append(_row(f"s{number}", f"How much is {number} and {number}?", str(2 * number), None))
    pictures.append(_row("p24", "Is grey a colour?", "yes", None))
    for name, rows in {"pictures": pictures, "sums": sums}.items():
        (folder / f"{name}.json").write_text(json.dumps(rows))
        (folder / f"{name}_test.json").write_text(json.dumps(rows[:5]))
    return [
        {
            "name": name,
            "data_path": str(folder / f"{name}.json"),
            "image_folder": str(folder / "images"),
            "repeat": repeat,
            "eval_data_path": str(folder / f"{name}_test.json"),
        }
        for name, repeat in {"pictures": 1, "sums": 2}.items()
    ]


@pytest.fixture(scope="session")
def mix(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    return write_mix(tmp_path_factory.mktemp("data") / "mix")


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    language_model = parts.save_language_model(folder / "llama", chat_template=CHAT)
    return build_llava(language_model, parts.save_clip(folder / "clip"), folder / "base", template="chat")


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Seed 2 puts the questions about pictures into one cluster, and the sums into the other.
    return make_tiny_encoder(tmp_path_factory.mktemp("encoder") / "tiny-encoder", seed=2)


@pytest.fixture(scope="session")
def clusters(tmp_path_factory: pytest.TempPathFactory, mix: list[dict], encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("clusters") / "k2"
    rows = {spec["name"]: json.loads(Path(spec["data_path"]).read_text()) for spec in mix}
    rule = InstructionRule()
    texts = [instruction_text(row, rule) for part in rows.values() for row in part]
    model = ClusterModel.fit(texts, 2, rule=rule, encoder=encoder, progress=False)
    model.save(folder)
    write_assignments(assign_rows(model, rows, progress=False), folder / "assignments.parquet")
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path, mix: list[dict], base: Path, clusters: Path):
    """Write a recipe of a few fast steps; keyword arguments change its keys."""

    def write(**changes) -> Path:
        recipe = {
            "model_name_or_path": str(base),
            "output_dir": str(tmp_path / "run"),
            "datasets": mix,
            "version": "chat",
            "model_max_length": 128,
            "cluster_model": str(clusters),
            "num_clusters": 2,
            "lora_r": 4,
            "lora_alpha": 8,
            "num_experts": 3,
            "gate_noise_std": 0.1,
            "per_device_train_batch_size": 4,
            "max_steps": 4,
            "learning_rate": 0.01,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "seed": 7,
        }
        if changes.get("adapter") == "lora":
            del recipe["num_experts"], recipe["gate_noise_std"]
        path = tmp_path / f"recipe_{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(recipe | changes))
        return path

    return write
