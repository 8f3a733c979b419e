"""An InstructBLIP of LAVIS (Vicuna) -> a folder of transformers' InstructBLIP.

LAVIS' `.pth` holds what was trained: the Q-Former, its query tokens, the language projection and the layer norm behind
the vision tower. The frozen rest lies elsewhere: the language model in a Vicuna folder, the vision tower in LAVIS' file
of EVA-CLIP-g. An InstructBLIP of transformers' has both.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BlipImageProcessorPil,
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
)

from llava_mocle.conversion.adapter_folder import difference, read_config
from llava_mocle.conversion.lavis_names import bridge_name, is_derived, read_lavis
from llava_mocle.errors import CheckpointError, ConfigError
from llava_mocle.io.folders import new_folder, refuse_to_overwrite
from llava_mocle.model.build import fit_embeddings, plain_generation_config
from llava_mocle.model.folders import find_folder
from llava_mocle.model.placement import parse_dtype
from llava_mocle.model.processing import load_tokenizer, prepare_tokenizer
from llava_mocle.model.weights import load_whole, read_weights

DEFAULT_QFORMER_TOKENIZER = "google-bert/bert-base-uncased"
_TOWER = "visual_encoder."
_LAYER = "vision_model.encoder.layers."
# Parts of a block of EVA-CLIP, as LAVIS names them -> as transformers does.
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_EMBEDDINGS = {
    "cls_token": "class_embedding",
    "pos_embed": "position_embedding",
    "patch_embed.proj.weight": "patch_embedding.weight",
    "patch_embed.proj.bias": "patch_embedding.bias",
}
_BLOCK_NAME = re.compile(r"blocks\.(\d+)\.(.+)\.(weight|bias|q_bias|v_bias)")
# Ends of the files of a processor and its tokenizers.
_SETTINGS = (".json", ".model", ".txt", ".jinja")
# LAVIS builds 39 blocks; its file of EVA-CLIP-g has 40.
_MOST_BLOCKS = 39
# Vicuna's end of text, which LAVIS makes its start of text and its unknown token too.
_END = "</s>"
# What shapes do not say: the width of an attention head in EVA-CLIP-g and in BERT.
_TOWER_HEAD, _QFORMER_HEAD = 88, 64


def convert_lavis(
    checkpoint: str | Path,
    output: str | Path,
    *,
    base: str | Path | None = None,
    language_model: str | Path | None = None,
    vision: str | Path | None = None,
    qformer_tokenizer: str | Path = DEFAULT_QFORMER_TOKENIZER,
    dtype: str | torch.dtype = "auto",
) -> list[str]:
    """Write a whole InstructBLIP folder: weights, configuration and processor.

    Args:
        checkpoint: LAVIS' `.pth`, such as instruct_vicuna7b_trimmed.pth.
        output: the folder to create.
        base: an InstructBLIP of transformers', which gives everything that the checkpoint does not hold.
        language_model: without a base: the Vicuna folder that the checkpoint was trained with.
        vision: without a base: LAVIS' eva_vit_g.pth, unless the checkpoint holds the tower (visual_encoder.*).
        qformer_tokenizer: without a base: the folder or hub name of BERT's uncased tokenizer.
        dtype: of all weights but the query tokens, which transformers keeps in float32; "auto": the base's or the
            language model's.

    Returns:
        lines that say where the weights came from.

    Raises:
        ConfigError: neither a base nor a language model was given, or both.
        CheckpointError: a weight of a file has no place, is missing, or is of another shape than the rest.
    """
    refuse_to_overwrite(output)
    if (base is None) == (language_model is None):
        raise ConfigError(
            "give either --base (an InstructBLIP folder of transformers', which has the frozen parts) or "
            "--language-model (a Vicuna folder; then --vision gives the tower)."
        )
    checkpoint = Path(checkpoint)
    bridge, tower, lines = _read(checkpoint)
    if base is not None:
        if vision is not None:
            raise ConfigError("--vision goes with --language-model; a --base has its vision tower already.")
        with new_folder(output) as folder:
            lines += _onto_base(checkpoint, bridge | tower, find_folder(base, "an InstructBLIP folder"), folder, dtype)
        return lines
    assert language_model is not None
    if vision is not None:
        if tower:
            raise ConfigError(f"{checkpoint} holds a vision tower (visual_encoder.*) itself: leave --vision out.")
        tower, left = _tower_weights(read_weights(Path(vision)))
        lines.append(f"vision tower: {vision}; left out, as LAVIS does: {_some(left)}")
    if not tower:
        raise ConfigError(
            f"{checkpoint} holds no vision tower: give --vision (LAVIS' eva_vit_g.pth), or take it from --base."
        )
    with new_folder(output) as folder:
        lines += _assembled(
            checkpoint,
            bridge | tower,
            find_folder(language_model, "the folder of a Vicuna"),
            find_folder(qformer_tokenizer, "the folder of BERT's uncased tokenizer", "Name it: --qformer-tokenizer."),
            folder,
            dtype,
        )
    return lines


def _read(checkpoint: Path) -> tuple[dict[str, Tensor], dict[str, Tensor], list[str]]:
    """The trained weights, those of a vision tower that the file may hold, and a line on what was left out."""
    state, _ = read_lavis(checkpoint)
    bridge: dict[str, Tensor] = {}
    encoder: dict[str, Tensor] = {}
    dropped, unknown = [], []
    for name, tensor in state.items():
        if is_derived(name):
            dropped.append(name)
        elif (ours := bridge_name(name)) is not None:
            bridge[ours] = tensor
        elif name.startswith(_TOWER):
            encoder[name.removeprefix(_TOWER)] = tensor
        else:
            unknown.append(name)
    tower, left = _tower_weights(encoder)
    unknown += [_TOWER + name for name in left]
    if unknown:
        raise CheckpointError(
            f"{checkpoint}: {len(unknown)} weight(s) are none of LAVIS' InstructBLIP with Vicuna, for example "
            f"{', '.join(sorted(unknown)[:3])}. Expected Qformer.bert.*, query_tokens, llm_proj.*, ln_vision.* and "
            "visual_encoder.*; a MoCLE checkpoint (lora_A.0 ...) is converted with --released."
        )
    return bridge, tower, [f"left out, as every model computes them: {_some(dropped)}"]


def _tower_weights(encoder: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """The vision tower's weights under transformers' names, and the names that LAVIS' tower does not have.

    LAVIS has biases for queries and values, transformers one for all three: the keys' is 0.
    """
    weights, left = {}, []
    biases: dict[str, dict[str, Tensor]] = {}
    for name, tensor in encoder.items():
        match = _BLOCK_NAME.fullmatch(name)
        if name in _EMBEDDINGS:
            weights[f"vision_model.embeddings.{_EMBEDDINGS[name]}"] = tensor
        elif match is None or int(match[1]) >= _MOST_BLOCKS:
            left.append(name)
        elif match[2] == "attn" and match[3] in ("q_bias", "v_bias"):
            biases.setdefault(match[1], {})[match[3]] = tensor
        elif match[2] in _BLOCK and match[3] in ("weight", "bias"):
            weights[f"{_LAYER}{match[1]}.{_BLOCK[match[2]]}.{match[3]}"] = tensor
        else:
            left.append(name)
    for layer, parts in biases.items():
        if len(parts) == len(("q_bias", "v_bias")):
            joint = torch.cat((parts["q_bias"], torch.zeros_like(parts["v_bias"]), parts["v_bias"]))
            weights[f"{_LAYER}{layer}.self_attn.qkv.bias"] = joint
        else:
            left += [f"blocks.{layer}.attn.{name}" for name in parts]
    return weights, left


def _onto_base(
    checkpoint: Path, trained: Mapping[str, Tensor], base: Path, folder: Path, dtype: str | torch.dtype
) -> list[str]:
    """Write the base with the checkpoint's weights in the place of its own."""
    config = read_config(base, InstructBlipForConditionalGeneration)
    kind = (config.dtype or torch.float32) if dtype == "auto" else parse_dtype(dtype)
    model = load_whole(InstructBlipForConditionalGeneration, base, config=config, dtype=kind, use_safetensors=None)
    parts: tuple[str, ...] = ("qformer.", "language_projection.", "vision_model.post_layernorm.", "query_tokens")
    if any(name.startswith("vision_model.encoder") for name in trained):
        parts = (*parts, "vision_model.")
    own = {name: tensor for name, tensor in model.state_dict().items() if name.startswith(parts)}
    if (reason := difference(own, trained)) is not None:
        raise CheckpointError(f"{checkpoint}: does not fit {base}: {reason}.")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(trained[name])
    model.save_pretrained(folder)
    # What lies beside the weights: the processor and its two tokenizers.
    for file in base.glob("*"):
        if file.is_dir() and file.name == "qformer_tokenizer":
            shutil.copytree(file, folder / file.name)
        elif file.suffix in _SETTINGS and not file.name.endswith(".index.json") and not (folder / file.name).exists():
            shutil.copyfile(file, folder / file.name)
    return [f"language model, processor and what the file lacks: {base} ({str(kind).removeprefix('torch.')})"]


def _assembled(
    checkpoint: Path,
    weights: Mapping[str, Tensor],
    language_folder: Path,
    bert_folder: Path,
    folder: Path,
    dtype: str | torch.dtype,
) -> list[str]:
    """Join the weights with a language model, and write the model and its processor."""
    tokenizer = _language_tokenizer(language_folder)
    image_token_id = prepare_tokenizer(tokenizer)
    language_model = load_whole(AutoModelForCausalLM, language_folder, dtype=parse_dtype(dtype), weights_only=True)
    fit_embeddings(language_model, tokenizer)
    config = _joint_config(checkpoint, weights, language_model.config, image_token_id)
    qformer_tokenizer = AutoTokenizer.from_pretrained(bert_folder, truncation_side="left")
    qformer_tokenizer.add_special_tokens({"bos_token": "[DEC]"})
    if len(qformer_tokenizer) != config.qformer_config.vocab_size:
        raise CheckpointError(
            f"{bert_folder}: has {len(qformer_tokenizer)} tokens with [DEC], but the Q-Former of {checkpoint} knows "
            f"{config.qformer_config.vocab_size}; give BERT's uncased tokenizer (--qformer-tokenizer)."
        )
    state = dict(weights)
    state |= {f"language_model.{name}": tensor for name, tensor in language_model.state_dict().items()}
    kind = language_model.dtype
    model = load_whole(
        InstructBlipForConditionalGeneration,
        checkpoint,
        refuse_unexpected=True,
        config=config,
        state_dict=state,
        dtype=kind,
    )
    model.generation_config = plain_generation_config(language_model, tokenizer)
    model.save_pretrained(folder)
    side = config.vision_config.image_size
    InstructBlipProcessor(
        image_processor=BlipImageProcessorPil(size={"height": side, "width": side}),
        tokenizer=tokenizer,
        qformer_tokenizer=qformer_tokenizer,
        num_query_tokens=config.num_query_tokens,
    ).save_pretrained(folder)
    return [f"language model: {language_folder} ({str(kind).removeprefix('torch.')}), with [PAD] and <image> added"]


def _language_tokenizer(folder: Path) -> Any:
    """Vicuna's tokenizer as LAVIS sets it up: [PAD] added, `</s>` in front of a text and behind it."""
    tokenizer = load_tokenizer(folder)
    starts = tokenizer.bos_token_id is not None and tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "bos_token": _END, "eos_token": _END, "unk_token": _END})
    if starts:
        # The slow tokenizer that LAVIS uses puts the new start token in front of a text; a fast one has the old in its
        # template.
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
            single=f"{_END} $A",
            pair=f"{_END} $A {_END}:1 $B:1",
            special_tokens=[(_END, tokenizer.convert_tokens_to_ids(_END))],
        )
    tokenizer.truncation_side = "left"
    tokenizer.init_kwargs["truncation_side"] = "left"  # what is saved
    return tokenizer


def _joint_config(checkpoint: Path, weights: Mapping[str, Tensor], text_config: Any, image_token_id: int) -> Any:
    """The configuration that the shapes of the weights say; the widths of attention heads are the published models'."""
    try:
        words = weights["qformer.embeddings.word_embeddings.weight"]
        patches = weights["vision_model.embeddings.patch_embedding.weight"]
        positions = weights["vision_model.embeddings.position_embedding"].shape[1] - 1
        vision = InstructBlipVisionConfig(
            hidden_size=patches.shape[0],
            intermediate_size=weights[f"{_LAYER}0.mlp.fc1.weight"].shape[0],
            num_hidden_layers=_count(weights, _LAYER),
            num_attention_heads=patches.shape[0] // _TOWER_HEAD,
            patch_size=patches.shape[-1],
            image_size=round(positions**0.5) * patches.shape[-1],
        )
        qformer = InstructBlipQFormerConfig(
            vocab_size=words.shape[0],
            hidden_size=words.shape[1],
            intermediate_size=weights["qformer.encoder.layer.0.intermediate.dense.weight"].shape[0],
            num_hidden_layers=_count(weights, "qformer.encoder.layer."),
            num_attention_heads=words.shape[1] // _QFORMER_HEAD,
            max_position_embeddings=weights["qformer.embeddings.position_embeddings.weight"].shape[0],
            encoder_hidden_size=patches.shape[0],
        )
        queries = weights["query_tokens"].shape[1]
    except (KeyError, IndexError) as error:
        raise CheckpointError(f"{checkpoint}: the weight {error} is missing; the file is incomplete.") from error
    return InstructBlipConfig(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text_config,
        num_query_tokens=queries,
        image_token_index=image_token_id,
    )


def _count(weights: Mapping[str, Tensor], prefix: str) -> int:
    numbers = {name.removeprefix(prefix).partition(".")[0] for name in weights if name.startswith(prefix)}
    return len(numbers)


def _some(names: list[str]) -> str:
    return f"{', '.join(sorted(names)[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}" or "nothing"
