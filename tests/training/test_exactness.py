"""Whole runs on two processes against one: the same global batches give the same losses and gradient norms.

Every case is unbalanced on purpose: rank 0 sees cluster 0 only and rank 1 others too, so that experts go unused on one
rank that the other trains; in step 2 one rank (or one micro-batch of one) has images and its peer has none; step 3 is
the epoch's rest, three rows and five fillers, so that rank 1 has nothing to learn from; step 4 is a new epoch's first.
The rows' answers differ in length, so a mean of means over ranks or micro-batches would show.
"""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from PIL import Image

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import assign_rows, write_assignments
from llava_mocle.clustering.instruction import InstructionRule, instruction_text
from llava_mocle.data.sampler import GlobalBatchSampler
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.setup.data import prepare_data
from tests.training.ranks import ROOT, ZERO, history, run

SEED = 7
BATCH = 8
# Slots of a global batch -> clusters. Split as 4 + 4, or as 2 + 2 twice, rank 0 gets only zeros.
CLUSTERS = [0, 0, 0, 0, 0, 0, 1, 2]
ACCUMULATE = ["--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "2"]
CHECKPOINTING = ["--gradient_checkpointing", "true"]
# float32 sums over two ranks in another order: 1e-6 is eight units in the last place.
FLOAT32 = 1e-6
BFLOAT16 = 2e-3


def write_rows(folder: Path) -> tuple[Path, list[dict]]:
    """12 rows with a picture, 7 without."""
    rows = []
    for number in range(19):
        row = {"id": f"r{number}"}
        # A batch is dealt out by falling length: rows with a picture are the longer ones, so that they come first.
        question, words = f"What is {number}?", 1 + number % 3
        if number < 12:
            Image.new("RGB", (28, 28), (20 * number, 255 - 20 * number, 90)).save(folder / f"{number}.png")
            row["image"], question = f"{number}.png", f"<image>\nWhich colour is it, {number}?"
            words = 4 + 2 * (number % 5)
        answer = " ".join(["word"] * words)
        row["conversations"] = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        rows.append(row)
    path = folder / "rows.json"
    path.write_text(json.dumps(rows))
    return path, rows


@pytest.fixture(scope="session")
def unbalanced(tmp_path_factory: pytest.TempPathFactory, base: Path, clusters: Path, encoder: Path) -> Path:
    """A recipe whose assignments follow from the order in which the sampler deals the rows out."""
    folder = tmp_path_factory.mktemp("unbalanced")
    data_path, rows = write_rows(folder)
    values = {
        "model_name_or_path": str(base), "output_dir": str(folder / "run"), "data_path": str(data_path),
        "image_folder": str(folder), "version": "chat", "model_max_length": 128, "cluster_model": str(folder / "k4"),
        "num_clusters": 4, "lora_r": 4, "lora_alpha": 8, "num_experts": 4, "gate_noise_std": 0.0,
        "per_device_train_batch_size": BATCH, "max_steps": 4, "learning_rate": 0.003, "save_strategy": "no",
        "report_to": "none", "disable_tqdm": True, "seed": SEED,
    }  # fmt: skip
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(values))
    dataset = prepare_data(load_recipe(path, ["--adapter", "lora", "--cluster_model", ""]), load_model(base)).train
    sampler = GlobalBatchSampler(dataset.lengths, dataset.has_image, BATCH, seed=SEED)
    ids = np.zeros(len(rows), dtype=np.int32)
    order = list(sampler)
    has_image = [bool(dataset.has_image[index]) for index in order if index >= 0]
    assert has_image == [True] * 12 + [False] * 7
    for slot, index in enumerate(order):
        if index >= 0:
            ids[index] = CLUSTERS[slot % BATCH]
    texts = [instruction_text(row, InstructionRule()) for row in rows]
    model = ClusterModel.fit(texts, 4, rule=InstructionRule(), encoder=encoder, progress=False)
    model.save(folder / "k4")
    table = assign_rows(model, {"train": rows}, progress=False)
    column = table.schema.get_field_index("cluster_id")
    table = table.set_column(column, table.schema.field(column), pa.array(ids))
    write_assignments(table, folder / "k4" / "assignments.parquet")
    return path


def losses_and_norms(unbalanced: Path, folder: Path, *words: str, count: int = 1) -> list[tuple[float, float]]:
    output = folder / "run"
    device_batch = [] if count == 1 else ["--per_device_train_batch_size", "4"]
    run(folder, unbalanced, "--output_dir", str(output), *device_batch, *words, count=count)
    seen = history(output)
    assert len(seen) == 4
    return seen


@pytest.fixture(scope="session")
def alone(unbalanced: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    """One process, no DeepSpeed, no accumulation, and logits of all tokens; all others compute what is supervised."""
    return losses_and_norms(unbalanced, tmp_path_factory.mktemp("alone"), "--supervised_head", "false")


@pytest.fixture(scope="session")
def alone_bf16(unbalanced: Path, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[float, float]]:
    """One process, with DeepSpeed: its weights are bfloat16, where `Trainer` alone only computes in it."""
    return losses_and_norms(unbalanced, tmp_path_factory.mktemp("alone"), "--bf16", "true", "--deepspeed", ZERO[2])


def compare(
    found: list[tuple[float, float]], expected: list[tuple[float, float]], tolerance: float, norms: int = 4
) -> None:
    """Losses of all steps, and gradient norms of the first `norms`."""
    for step, ((loss, norm), (expected_loss, expected_norm)) in enumerate(zip(found, expected, strict=True), 1):
        assert loss == pytest.approx(expected_loss, rel=tolerance), f"loss of step {step}"
        if step <= norms:
            assert norm == pytest.approx(expected_norm, rel=tolerance), f"gradient norm of step {step}"


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], ACCUMULATE, CHECKPOINTING], ids=["plain", "accumulate", "checkpointing"])
@pytest.mark.parametrize("zero", [None, 2, 3], ids=["ddp", "zero2", "zero3"])
def test_two_processes_equal_one(unbalanced: Path, alone: list, tmp_path: Path, zero: int | None, extra: list) -> None:
    words = extra + (["--deepspeed", ZERO[zero]] if zero else [])
    compare(losses_and_norms(unbalanced, tmp_path, *words, count=2), alone, FLOAT32)


BALANCED = ["--num_experts", "3", "--gate_temperature", "0.5", "--balance_loss_weight", "0.2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("adapter", "zero", "extra"),
    [
        ("token", None, ACCUMULATE),
        ("token", 2, CHECKPOINTING),
        ("token", 3, []),
        # Its shares are those of a micro-batch of all ranks, so accumulation is not the same.
        ("sentence", 2, []),
        ("sentence", 3, CHECKPOINTING),
    ],
)
def test_two_processes_equal_one_without_clusters(
    unbalanced: Path, tmp_path: Path, adapter: str, zero: int | None, extra: list
) -> None:
    """The global batches are the same, and what is routed is unbalanced: a rank has images, and its peer has none."""
    words = ["--adapter", adapter, "--cluster_model", "", *BALANCED]
    alone = losses_and_norms(unbalanced, tmp_path / "alone", *words)
    words += extra + (["--deepspeed", ZERO[zero]] if zero else [])
    compare(losses_and_norms(unbalanced, tmp_path / "two", *words, count=2), alone, FLOAT32)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [2, 3])
def test_in_bfloat16(unbalanced: Path, alone_bf16: list, tmp_path: Path, zero: int) -> None:
    words = ["--bf16", "true", "--deepspeed", ZERO[zero], *ACCUMULATE, *CHECKPOINTING]
    # From step 2 on, a weight that was rounded to its other neighbour moves the norm by some thousandths.
    compare(losses_and_norms(unbalanced, tmp_path, *words, count=2), alone_bf16, BFLOAT16, norms=1)


@pytest.mark.slow
def test_one_process_under_zero_3(unbalanced: Path, alone: list, tmp_path: Path) -> None:
    words = ["--deepspeed", ZERO[3], *ACCUMULATE, "--gradient_accumulation_steps", "4"]
    compare(losses_and_norms(unbalanced, tmp_path, *words), alone, FLOAT32)


@pytest.mark.slow
def test_offload_without_its_compiled_optimizer(unbalanced: Path, alone: list, tmp_path: Path) -> None:
    """`zero3_offload.json` but for what needs a GPU or a compiler: pinned memory, and DeepSpeed's own Adam."""
    config = json.loads((ROOT / "zero_configs" / "zero3_offload.json").read_text())
    zero = config["zero_optimization"]
    for part in ("offload_optimizer", "offload_param"):
        zero[part]["pin_memory"] = False
    zero |= {"overlap_comm": False, "stage3_param_persistence_threshold": 0}
    path = tmp_path / "offload.json"
    path.write_text(json.dumps(config | {"zero_force_ds_cpu_optimizer": False}))
    compare(losses_and_norms(unbalanced, tmp_path, "--deepspeed", str(path), count=2), alone, FLOAT32)
