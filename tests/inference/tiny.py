"""Tiny random models on disk: a LLaVA base, a stage-1 folder and MoCLE checkpoints with a cluster model."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers import decoders as token_decoders
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from llava_mocle.model.llama_tokenizer import load_llama_tokenizer
from llava_mocle.model.processing import prepare_tokenizer
from tests.clustering.encoders import make_tiny_encoder
from tests.data.sentencepiece_model import train_sentencepiece

QUESTIONS = (
    "What color is the circle?",
    "How many triangles are there?",
    "Describe the picture in one sentence.",
    "Is there a red square?",
    "Name the modality of this scan.",
    "Which plane is shown?",
)
# Vicuna's own words too, or every prompt would be one token a byte.
_TEXT = [*QUESTIONS, "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:"] * 4
IMAGE_SIDE = 32


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 400 tokens, with Llama's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = token_decoders.ByteLevel()
    specials = ["<unk>", "<s>", "</s>", "<pad>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens([AddedToken("<image>", special=True, normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def tiny_image_processor() -> CLIPImageProcessorPil:
    side = {"height": IMAGE_SIDE, "width": IMAGE_SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": IMAGE_SIDE}, crop_size=side)


def write_base(
    folder: Path, template: str = "vicuna_v1", seed: int = 0, head_dim: int = 12, tokenizer: Any = None
) -> Path:
    """A base folder: CLIP with 4 patch tokens, a two-layer Llama, all weights random."""
    tokenizer = tokenizer or tiny_tokenizer()
    vision = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=16
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=head_dim,
        max_position_embeddings=512,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "multi_modal_projector" in name:
                parameter.normal_(0, 0.5)
        # Random models hardly ever stop: make the end of text likely enough that answers differ in length.
        model.lm_head.weight[2].mul_(2.0)
        # And they write bytes that make no letters, which llama.cpp's server takes for an error of the model.
        single = [number for token, number in tokenizer.get_vocab().items() if token.startswith("<0x")]
        model.lm_head.weight[single] = 0.0
    # Settings that a Predictor must not inherit.
    model.generation_config.repetition_penalty = 3.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    (folder / "llava_mocle.json").write_text(json.dumps({"template": template}))
    return folder


def write_stage1(folder: Path, base: Path) -> Path:
    """A stage-1 folder: another projector for `base`."""
    folder.mkdir(parents=True)
    model = LlavaForConditionalGeneration.from_pretrained(base)
    torch.manual_seed(1)
    weights = {
        name: torch.randn_like(value) * 0.5 for name, value in model.model.multi_modal_projector.state_dict().items()
    }
    save_file(weights, folder / "mm_projector.safetensors")
    (folder / "mm_projector_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    (folder / "recipe.yaml").write_text("version: vicuna_v1\nimage_aspect_ratio: pad\n")
    tiny_tokenizer().save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    return folder


def write_encoder(folder: Path) -> Path:
    """A random sentence-transformers model."""
    return make_tiny_encoder(folder, seed=2)


def write_checkpoint(
    folder: Path, base: Path, encoder: Path, *, router: str = "cluster", seed: int = 6, tokenizer: Any = None
) -> Path:
    """A stage-2 checkpoint whose experts differ a lot, so that another cluster gives another answer."""
    from peft import get_peft_model

    from llava_mocle.adapter import MocleConfig
    from llava_mocle.clustering import ClusterModel

    clusters = ClusterModel.fit(QUESTIONS, 3, encoder=str(encoder), progress=False, seed=0)
    options = {
        "cluster": {"num_experts": 3, "num_clusters": 3, "cluster_dim": clusters.dim, "temperature": 0.1},
        "dataset": {"num_experts": 2, "num_clusters": 2, "temperature": 0.1},
        "none": {"num_experts": 1, "universal_expert": False},
    }[router]
    model = LlavaForConditionalGeneration.from_pretrained(base)
    torch.manual_seed(seed)
    config = MocleConfig(
        task_type="CAUSAL_LM",
        r=4,
        lora_alpha=8,
        target_modules=r".*language_model\..*\.(up_proj|down_proj)",
        modules_to_save=["multi_modal_projector"],
        router=router,
        init_lora_weights=False,
        **options,
    )
    adapted = get_peft_model(model, config)
    if router == "cluster":
        adapted.base_model.set_cluster_embedding(torch.from_numpy(clusters.centroids))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "experts_" in name:
                parameter.normal_(0, 0.6)
            elif "gate" in name and parameter.ndim > 1 and "gate_proj" not in name:
                parameter.normal_(0, 0.2)
    adapted.save_pretrained(folder)
    if router == "cluster":
        clusters.save(folder / "clusters")
    (tokenizer or tiny_tokenizer()).save_pretrained(folder)
    tiny_image_processor().save_pretrained(folder)
    recipe = "version: vicuna_v1\nimage_aspect_ratio: pad\n"
    recipe += "datasets:\n- {name: shapes, data_path: a.json}\n- {name: scans, data_path: b.json}\n"
    (folder / "recipe.yaml").write_text(recipe)
    return folder


def write_llama_checkpoint(folder: Path, encoder: Path) -> Path:
    """The same with Llama's kind of tokenizer, which llama.cpp knows, on a base of its own."""
    (folder / "tokenizer").mkdir(parents=True)
    file = train_sentencepiece(folder / "tokenizer")
    tokenizer = load_llama_tokenizer(file.parent)
    prepare_tokenizer(tokenizer)
    base = write_base(folder / "base", tokenizer=tokenizer)
    shutil.copyfile(file, base / "tokenizer.model")
    return write_checkpoint(folder / "mocle", base, encoder, tokenizer=tokenizer)


def write_images(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """PNG pictures of random noise, none of them square."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 256, (24 + number % 5, 40, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths
