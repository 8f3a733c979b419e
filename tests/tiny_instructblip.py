"""A tiny random InstructBLIP in a folder of transformers' layout, rows for it, and recipes of a few fast steps."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from transformers import (
    AddedToken,
    BertTokenizer,
    BlipImageProcessorPil,
    GenerationConfig,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
    LlamaTokenizer,
)

from llava_mocle.clustering import ClusterModel
from llava_mocle.clustering.assign import assign_rows, write_assignments
from llava_mocle.clustering.instruction import InstructionRule, instruction_text

QUERIES = 4
SIDE = 28
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (20, 40, 210), "grey": (128, 128, 128)}
WORDS = [
    "what",
    "colour",
    "is",
    "picture",
    "question",
    "short",
    "answer",
    "red",
    "green",
    "blue",
    "grey",
    "yes",
    "no",
    "?",
]


def llama_tokenizer() -> LlamaTokenizer:
    """Llama's kind, as InstructBLIP's folders have it: bytes for unknown letters, "▁" for spaces, `<s>` in front."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"abcdefghijklmnopqrstuvwxyz?:"]
    merges = []
    for word in ("▁what", "▁colour", "▁red", "▁green"):
        for end in range(2, len(word) + 1):
            left, right = word[: end - 1], word[end - 1]
            if left + right not in pieces:
                merges.append((left, right))
                pieces.append(left + right)
    tokenizer = LlamaTokenizer(
        vocab={piece: index for index, piece in enumerate(pieces)},
        merges=merges,
        legacy=True,
        add_bos_token=True,
        model_max_length=512,
    )
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return tokenizer


def bert_tokenizer() -> BertTokenizer:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789:"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *letters, *(f"##{letter}" for letter in letters)]
    tokenizer = BertTokenizer(vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))})
    tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    return tokenizer


def save_instructblip(folder: Path, dropout: float = 0.1, **text_options) -> Path:
    """A base folder in the layout of the hub; `dropout` is the Q-Former's."""
    tokenizer, questions = llama_tokenizer(), bert_tokenizer()
    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=tokenizer.pad_token_id,
        **(small | text_options),
    )
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(image_size=SIDE, patch_size=14, initializer_range=0.2, **small),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=len(questions),
            cross_attention_frequency=1,
            initializer_range=0.2,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            **small,
        ),
        text_config=text,
        num_query_tokens=QUERIES,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = InstructBlipForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.query_tokens)  # transformers leaves them at zero
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    questions.save_pretrained(folder / "qformer_tokenizer")
    BlipImageProcessorPil(size={"height": SIDE, "width": SIDE}).save_pretrained(folder)
    return folder


def row(identity: str, question: str, answer: str, *images: str) -> dict:
    shown = images[0] if len(images) == 1 else list(images)
    tags = "<image>\n" * len(images)
    return {
        "id": identity,
        "image": shown,
        "conversations": [{"from": "human", "value": tags + question}, {"from": "gpt", "value": answer}],
    }


def write_rows(folder: Path) -> list[dict]:
    """16 rows with a picture of one colour each, and a video of two frames."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(16):
        name, colour = list(COLOURS.items())[number % 4]
        Image.new("RGB", (28 + number, 28), colour).save(folder / f"{number}.png")
        question = f"what colour is picture {number}?" if number % 2 else f"question: is it {name}? short answer:"
        rows.append(row(f"p{number}", question, name if number % 2 else "yes", f"{number}.png"))
    rows.append(row("v0", "what colour is it?", "red green", "0.png", "1.png") | {"video": True})
    (folder / "rows.json").write_text(json.dumps(rows))
    return rows


@pytest.fixture(scope="session")
def instructblip_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_instructblip(tmp_path_factory.mktemp("instructblip") / "base")


@pytest.fixture(scope="session")
def instructblip_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the rows, which are in rows.json, and of their images."""
    folder = tmp_path_factory.mktemp("instructblip_rows")
    write_rows(folder)
    return folder


@pytest.fixture(scope="session")
def instructblip_clusters(tmp_path_factory: pytest.TempPathFactory, instructblip_rows: Path, encoder: Path) -> Path:
    folder = tmp_path_factory.mktemp("instructblip_clusters") / "k2"
    rows = {"pictures": json.loads((instructblip_rows / "rows.json").read_text())}
    texts = [instruction_text(one, InstructionRule()) for one in rows["pictures"]]
    model = ClusterModel.fit(texts, 2, rule=InstructionRule(), encoder=encoder, progress=False)
    model.save(folder)
    write_assignments(assign_rows(model, rows, progress=False), folder / "assignments.parquet")
    return folder


def recipe_values(base: Path, rows: Path, clusters: Path, output_dir: Path) -> dict:
    return {
        "model_name_or_path": str(base),
        "output_dir": str(output_dir),
        "datasets": [{"name": "pictures", "data_path": str(rows / "rows.json"), "image_folder": str(rows)}],
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


@pytest.fixture
def instructblip_recipe(tmp_path: Path, instructblip_base: Path, instructblip_rows: Path, instructblip_clusters: Path):
    """Write a recipe of a few fast steps; keyword arguments change its keys."""

    def write(**changes) -> Path:
        values = recipe_values(instructblip_base, instructblip_rows, instructblip_clusters, tmp_path / "run")
        path = tmp_path / f"recipe_{len(list(tmp_path.iterdir()))}.yaml"
        path.write_text(yaml.safe_dump(values | changes))
        return path

    return write
