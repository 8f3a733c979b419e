"""Build the demonstration's base model once: `python -m playground.build_base`.

SmolLM2-135M-Instruct (dequantized from GGUF) and EfficientNet-Lite0 become ordinary model folders, and those, with a
new projector, a LLaVA base folder under `playground/base/`.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_mocle.errors import AssetError, UserError
from llava_mocle.io.files import make_readable
from playground.paths import BASE, assets_dir

GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
BACKBONE_FILE = "efficientnet-lite0-57934424.pth"
IMAGE_SIZE = 224
GRID_SIZE = 4
# As many images as the three domains have; an entry takes 80 KiB.
FEATURE_CACHE_SIZE = 2048

# The model's own template (ChatML) without the system turn that it would open every conversation with: at two dozen
# tokens that turn is longer than most of our samples, and it says nothing about them. A system turn given is kept.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def convert_language_model(gguf: Path, out_dir: Path) -> None:
    """Write a GGUF language model as a transformers folder: float32 safetensors and a fast tokenizer.

    A model loaded from GGUF stays marked as quantized, which can be neither saved nor trained; so its (already
    dequantized) tensors move into a model made from the same configuration without that mark.

    Raises:
        AssetError: the file or the `gguf` package is missing, or the file cannot be read.
    """
    if not gguf.is_file():
        raise AssetError(f"{gguf}: not found. Run: python -m playground.fetch_assets --only language")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except ImportError as error:
        raise AssetError(
            f"Reading {gguf.name} needs the 'demo' extra (pip install 'llava_mocle[demo]'): {error}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise AssetError(f"{gguf}: cannot be read as a GGUF model ({type(error).__name__}: {error}).") from error
    fields = source.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "dtype"):
        fields.pop(name, None)
    model = AutoModelForCausalLM.from_config(type(source.config)(**fields), dtype=torch.float32)
    model.load_state_dict(source.state_dict())
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.model_max_length = model.config.max_position_embeddings
    _write_folder(out_dir, model, tokenizer)


def convert_vision_tower(
    weights: Path,
    out_dir: Path,
    grid_size: int = GRID_SIZE,
    images: Sequence[Path] = (),
    image_size: int = IMAGE_SIZE,
) -> None:
    """Write EfficientNet-Lite0 as a grid tower folder with its image processor (mean = std = 0.5, PIL).

    With `images`, the tower's features are standardized over them.

    Raises:
        AssetError: the weights are missing or not those of EfficientNet-Lite0.
    """
    if not weights.is_file():
        raise AssetError(f"{weights}: not found. Run: python -m playground.fetch_assets --only vision")
    from transformers import CLIPImageProcessorPil

    from llava_mocle.data.images import load_image, process_image
    from llava_mocle.families.grid_tower import GridVisionModel
    from llava_mocle.model.weights import read_weights

    published = read_weights(weights, AssetError)
    try:
        tower = GridVisionModel.from_backbone_weights(
            published,
            grid_size,
            image_size=image_size,
            feature_cache_size=FEATURE_CACHE_SIZE,
            standardize=bool(images),
        )
    except AssetError as error:
        raise AssetError(f"{weights}: {error}") from error
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": image_size},
        crop_size={"height": image_size, "width": image_size},
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    if images:
        tower.calibrate(process_image(load_image(path), processor) for path in images)
        tower.clear_cache()
    _write_folder(out_dir, tower, processor)


def _write_folder(out_dir: Path, *parts: Any) -> None:
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for part in parts:
        part.save_pretrained(partial)
    make_readable(partial)
    shutil.rmtree(out_dir, ignore_errors=True)
    os.replace(partial, out_dir)


def build_base(assets: Path | None = None, out_dir: Path = BASE, images: Sequence[Path] = ()) -> Path:
    """Convert both parts and join them into a LLaVA base folder, replacing an earlier one only when done.

    Args:
        images: training images that the vision features are standardized over.
    """
    from transformers.utils import logging as transformers_logging

    from llava_mocle.model.build import build_llava

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    assets = assets or assets_dir()
    language, vision = assets / "smollm2", assets / "efficientnet-lite0-grid"
    print("base: language model from GGUF ...", flush=True)
    convert_language_model(assets / "smollm2-gguf" / GGUF_FILE, language)
    print("base: vision tower ...", flush=True)
    convert_vision_tower(assets / "efficientnet-lite0" / BACKBONE_FILE, vision, images=images)
    print("base: joining them with a new projector ...", flush=True)
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    build_llava(language, vision, partial, template="chat")
    shutil.rmtree(out_dir, ignore_errors=True)
    os.replace(partial, out_dir)
    return out_dir


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m playground.build_base", description=__doc__.splitlines()[0])
    parser.add_argument("--assets", type=Path, default=None, help="folder of the fetched parts")
    parser.add_argument("--out", type=Path, default=BASE, help="folder to write (default: playground/base)")
    args = parser.parse_args(argv)
    try:
        print(build_base(args.assets, args.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
