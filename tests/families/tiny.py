"""Tiny random models of every kind that has a processor, saved as the folders that people have of them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

HIDDEN = 32
TEXT = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
    "tie_word_embeddings": False,
}
VISION = {
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
_CORPUS = ["what is shown here ? a red circle", "where is it ? on the left , I think", "x\n  y\n  z"]


@dataclass(frozen=True)
class Tiny:
    """How a tiny model of one kind is made.

    Attributes:
        special: the special tokens of its tokenizer, beside those of every one.
        named: its tokens that processors ask for by a name.
        chat_template: in the style of its family; None: it has none.
        image_processor: of its files.
        settings: of its processor_config.json.
        config: from the tokenizer's ids of its special tokens.
        bos: whether the tokenizer puts a start of text in front.
    """

    special: tuple[str, ...]
    chat_template: str | None
    image_processor: Any
    config: Callable[[Callable[[str], int], int], Any]
    settings: dict[str, Any]
    named: dict[str, str]
    bos: bool = False


def make_tokenizer(tiny: Tiny) -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 330 tokens and the family's own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(_CORPUS * 5, trainer)
    if tiny.bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        extra_special_tokens=tiny.named,
        model_max_length=4096,
    )
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tiny.special], True)
    if tiny.chat_template is not None:
        tokenizer.chat_template = tiny.chat_template
    return tokenizer


def save_tiny(kind: str, folder: Path) -> Path:
    """Write a whole model folder of this kind."""
    tiny = TINY[kind]
    tokenizer = make_tokenizer(tiny)
    config = tiny.config(tokenizer.convert_tokens_to_ids, len(tokenizer))
    torch.manual_seed(3)
    model = transformers.AutoModelForImageTextToText.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            # Wide enough that images and tokens change the answers visibly.
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tiny.image_processor.save_pretrained(folder)
    if tiny.settings:
        (folder / "processor_config.json").write_text(json.dumps(tiny.settings))
    return folder


_GRIDS = [[28, 56], [56, 28], [56, 56], [28, 84], [84, 28]]
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'user' %}[INST] "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)
_SMOL = (
    "<|im_start|>{% for message in messages %}{{ message['role'] | capitalize }}"
    "{% if message['content'][0]['type'] == 'image' %}:{% else %}: {% endif %}"
    "{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% else %}<image>{% endif %}"
    "{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
_GEMMA = (
    "<s>{% for message in messages %}{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "<start_of_turn>{{ role }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<start_of_image>{% else %}"
    "{{ part['text'] | trim }}{% endif %}{% endfor %}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
_PIXTRAL = (
    "<s>{% for message in messages %}{% if message['role'] == 'user' %}[INST]"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}[IMG]{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}[/INST]{% else %}{{ message['content'][0]['text'] }}</s>{% endif %}{% endfor %}"
)
_HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
_QWEN_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
_SMOL_SPECIAL = (
    "<|im_start|>",
    "<end_of_utterance>",
    "<fake_token_around_image>",
    "<image>",
    "<global-img>",
    *(f"<row_{row}_col_{col}>" for row in range(1, 7) for col in range(1, 7)),
)


def _chatml(image: str) -> str:
    return _CHATML.replace("IMAGE", image)


def _next_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.LlavaNextConfig(
        text_config=transformers.MistralConfig(**TEXT, vocab_size=vocab),
        vision_config=transformers.CLIPVisionConfig(**VISION),
        image_grid_pinpoints=_GRIDS,
        image_token_index=ids("<image>"),
        tie_word_embeddings=False,
    )


def _onevision_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.LlavaOnevisionConfig(
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=vocab),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_grid_pinpoints=_GRIDS,
        image_token_index=ids("<image>"),
        video_token_index=ids("<video>"),
        tie_word_embeddings=False,
    )


def _qwen_ids(ids: Callable[[str], int]) -> dict[str, int]:
    return {
        "image_token_id": ids("<|image_pad|>"),
        "video_token_id": ids("<|video_pad|>"),
        "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"),
    }


def _qwen2_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.Qwen2VLConfig(
        text_config=TEXT | {"vocab_size": vocab, "rope_parameters": _MROPE},
        vision_config={"depth": 2, "embed_dim": 32, "hidden_size": HIDDEN, "num_heads": 2, "patch_size": 14},
        tie_word_embeddings=False,
        **_qwen_ids(ids),
    )


_MROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}


def _qwen25_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.Qwen2_5_VLConfig(
        text_config=TEXT | {"vocab_size": vocab, "rope_parameters": _MROPE},
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [1],
        },
        tie_word_embeddings=False,
        **_qwen_ids(ids),
    )


def _qwen3_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.Qwen3VLConfig(
        # A layer more than features from inside the tower: those added behind the last layer would change nothing.
        text_config=TEXT | {"vocab_size": vocab, "rope_parameters": _MROPE, "num_hidden_layers": 3},
        vision_config={
            "depth": 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "patch_size": 14,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        tie_word_embeddings=False,
        **_qwen_ids(ids),
    )


def _intern_config(ids: Callable[[str], int], vocab: int) -> Any:
    vision = VISION | {"image_size": [28, 28], "patch_size": [7, 7]}
    return transformers.InternVLConfig(
        text_config=transformers.Qwen2Config(**TEXT, vocab_size=vocab),
        vision_config=transformers.InternVLVisionConfig(**vision),
        image_token_id=ids("<IMG_CONTEXT>"),
        image_seq_length=4,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )


def _smol_config(kind: Any) -> Callable[[Callable[[str], int], int], Any]:
    def make(ids: Callable[[str], int], vocab: int) -> Any:
        return kind(
            text_config=transformers.LlamaConfig(**TEXT, vocab_size=vocab, pad_token_id=0),
            vision_config=VISION | {"patch_size": 7},
            image_token_id=ids("<image>"),
            scale_factor=2,
            pad_token_id=0,
            tie_word_embeddings=False,
        )

    return make


def _gemma_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.Gemma3Config(
        text_config=transformers.Gemma3TextConfig(**TEXT, vocab_size=vocab, sliding_window=64),
        vision_config=transformers.SiglipVisionConfig(**VISION | {"patch_size": 7}, vision_use_head=False),
        mm_tokens_per_image=4,
        image_token_index=ids("<image_soft_token>"),
        boi_token_index=ids("<start_of_image>"),
        eoi_token_index=ids("<end_of_image>"),
        tie_word_embeddings=False,
    )


def _paligemma_config(ids: Callable[[str], int], vocab: int) -> Any:
    return transformers.PaliGemmaConfig(
        text_config=transformers.GemmaConfig(**TEXT, vocab_size=vocab),
        vision_config=transformers.SiglipVisionConfig(**VISION, vision_use_head=False),
        image_token_index=ids("<image>"),
        projection_dim=HIDDEN,
        tie_word_embeddings=False,
    )


def _mistral_config(ids: Callable[[str], int], vocab: int) -> Any:
    vision = VISION | {"image_size": 56, "patch_size": 7, "head_dim": 12}
    return transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**TEXT, vocab_size=vocab),
        vision_config=transformers.PixtralVisionConfig(**vision),
        image_token_index=ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )


def _qwen_images(**changes: Any) -> Any:
    pixels = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    return transformers.Qwen2VLImageProcessorPil(size=pixels, patch_size=14, merge_size=2, **changes)


_SQUARE = {"height": 28, "width": 28}
_QWEN_CHAT = _chatml("<|vision_start|><|image_pad|><|vision_end|>")
TINY = {
    "llava_next": Tiny(
        ("<image>",),
        _MISTRAL,
        transformers.LlavaNextImageProcessorPil(
            size={"shortest_edge": 28}, crop_size=_SQUARE, image_grid_pinpoints=_GRIDS
        ),
        _next_config,
        {},
        {},
        bos=True,
    ),
    "llava_onevision": Tiny(
        ("<|im_start|>", "<|im_end|>", "<image>", "<video>"),
        _chatml("<image>"),
        transformers.LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_GRIDS),
        _onevision_config,
        {"vision_aspect_ratio": "anyres_max_9"},
        {},
    ),
    "qwen2_vl": Tiny(_QWEN_SPECIAL, _QWEN_CHAT, _qwen_images(), _qwen2_config, {}, {}),
    "qwen2_5_vl": Tiny(_QWEN_SPECIAL, _QWEN_CHAT, _qwen_images(), _qwen25_config, {}, {}),
    "qwen3_vl": Tiny(_QWEN_SPECIAL, _QWEN_CHAT, _qwen_images(**_HALF), _qwen3_config, {}, {}),
    "internvl": Tiny(
        ("<|im_start|>", "<|im_end|>"),
        _chatml("<IMG_CONTEXT>\n"),
        transformers.GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=True, max_patches=4),
        _intern_config,
        {},
        {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        },
    ),
    "smolvlm": Tiny(
        _SMOL_SPECIAL,
        _SMOL,
        transformers.SmolVLMImageProcessorPil(
            size={"longest_edge": 84}, max_image_size={"longest_edge": 28}, do_image_splitting=True, **_HALF
        ),
        _smol_config(transformers.SmolVLMConfig),
        {},
        {},
    ),
    "idefics3": Tiny(
        _SMOL_SPECIAL,
        _SMOL,
        transformers.Idefics3ImageProcessorPil(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}, do_image_splitting=True, **_HALF
        ),
        _smol_config(transformers.Idefics3Config),
        {},
        {},
    ),
    "gemma3": Tiny(
        ("<start_of_turn>", "<end_of_turn>"),
        _GEMMA,
        transformers.Gemma3ImageProcessorPil(size=_SQUARE, **_HALF),
        _gemma_config,
        {},
        {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"},
        bos=True,
    ),
    "paligemma": Tiny(
        ("<image>",),
        None,
        transformers.SiglipImageProcessorPil(size=_SQUARE, image_seq_length=4, **_HALF),
        _paligemma_config,
        {},
        {},
    ),
    "mistral3": Tiny(
        ("[INST]", "[/INST]", "[IMG]", "[IMG_BREAK]", "[IMG_END]"),
        _PIXTRAL,
        transformers.PixtralImageProcessorPil(size={"longest_edge": 56}, patch_size={"height": 7, "width": 7}),
        _mistral_config,
        {},
        {},
        bos=True,
    ),
}
