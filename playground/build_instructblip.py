"""Build a small InstructBLIP of the demonstration's parts: `python -m playground.build_instructblip`.

No package of the registries ships a Q-Former. So this one is new. Its self-attention and its feed-forward layers start
from the sentence encoder, a small BERT, as BLIP-2's started from BERT. Its cross-attention and its query tokens start
at random. Tower and language model are those of `make demo`.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoTokenizer, InstructBlipQFormerConfig

from llava_mocle.errors import AssetError, UserError
from llava_mocle.families.grid_instructblip import GridInstructBlip, GridInstructBlipConfig
from llava_mocle.families.grid_tower import GridVisionModel
from llava_mocle.families.instructblip import QFORMER_TOKENIZER
from llava_mocle.io.files import make_readable
from llava_mocle.model.build import fit_embeddings
from llava_mocle.model.processing import load_image_processor, load_tokenizer, prepare_tokenizer
from playground.paths import PLAYGROUND, assets_dir

INSTRUCTBLIP_BASE = PLAYGROUND / "instructblip_base"
QUERIES = 16
SEED = 0
_QUERY_STD = 0.02


def build(assets: Path | None = None, out_dir: Path = INSTRUCTBLIP_BASE) -> Path:
    """Join the parts, which `playground.prepare` has converted, replacing an earlier folder only when done.

    Raises:
        AssetError: a part is missing.
    """
    assets = assets or assets_dir()
    folders = {name: assets / name for name in ("smollm2", "efficientnet-lite0-grid", "all-MiniLM-L6-v2")}
    for folder in folders.values():
        if not (folder / "config.json").is_file():
            raise AssetError(f"{folder}: not there. Run: python -m playground.prepare")
    language, vision, bert = folders.values()
    tokenizer = load_tokenizer(language)
    image_token_id = prepare_tokenizer(tokenizer)
    language_model = AutoModelForCausalLM.from_pretrained(language)
    fit_embeddings(language_model, tokenizer)
    tower = GridVisionModel.from_pretrained(vision)
    config = GridInstructBlipConfig(
        vision_config=tower.config,
        qformer_config=qformer_config(AutoConfig.from_pretrained(bert)),
        text_config=language_model.config,
        num_query_tokens=QUERIES,
        image_token_index=image_token_id,
    )
    torch.manual_seed(SEED)
    model = GridInstructBlip(config)
    model.vision_model.tower.load_state_dict(tower.state_dict())
    model.language_model.load_state_dict(language_model.state_dict())
    start_from_bert(model.qformer, AutoModel.from_pretrained(bert))
    torch.nn.init.normal_(model.query_tokens, std=_QUERY_STD)
    # The Q-Former ends with a norm, so the image's tokens start as large as the words'.
    words = model.get_input_embeddings().weight.std().item()
    torch.nn.init.normal_(model.language_projection.weight, std=words / config.qformer_config.hidden_size**0.5)
    model.generation_config = language_model.generation_config
    partial = out_dir.with_name(f".{out_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    load_image_processor(vision).save_pretrained(partial)
    AutoTokenizer.from_pretrained(bert).save_pretrained(partial / QFORMER_TOKENIZER)
    make_readable(partial)
    shutil.rmtree(out_dir, ignore_errors=True)
    os.replace(partial, out_dir)
    return out_dir


def qformer_config(bert: AutoConfig) -> InstructBlipQFormerConfig:
    """A Q-Former of BERT's sizes, with cross-attention in every second layer, as BLIP-2's."""
    same = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "hidden_act")
    return InstructBlipQFormerConfig(
        **{name: getattr(bert, name) for name in (*same, "max_position_embeddings", "layer_norm_eps")}
    )


def start_from_bert(qformer: torch.nn.Module, bert: torch.nn.Module) -> None:
    """Copy BERT's weights to the question's way through the Q-Former, and its feed-forward layers to the queries' too.

    The Q-Former has no token types, so the vector of the first type goes into the position embeddings.
    """
    given = bert.state_dict()
    positions = given["embeddings.position_embeddings.weight"] + given["embeddings.token_type_embeddings.weight"][0]
    given |= {"embeddings.position_embeddings.weight": positions}
    for name, target in qformer.state_dict().items():
        if "crossattention" in name:
            continue
        source = name.replace("_query.", ".").replace("attention.attention.", "attention.self.")
        target.copy_(given[source.replace("embeddings.layernorm.", "embeddings.LayerNorm.")])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m playground.build_instructblip", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--assets", type=Path, default=None, help="folder of the fetched parts")
    parser.add_argument("--out", type=Path, default=INSTRUCTBLIP_BASE, help="folder to write")
    args = parser.parse_args(argv)
    try:
        print(build(args.assets, args.out))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
