"""Small random LLaVA models with MoCLE, as the measurements need them."""

import torch
from peft import get_peft_model
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from llava_mocle.adapter import MocleConfig
from llava_mocle.model.supervised_head import SupervisedHead, put_supervised_head
from llava_mocle.planning.activations import Batch
from llava_mocle.recipe.keys import AdapterArguments
from llava_mocle.training.setup.adapter import choose_products, parts_of

IMAGE_TOKENS = 16


def make_model(
    *,
    hidden=64,
    intermediate=176,
    layers=3,
    heads=4,
    kv_heads=4,
    vocab=500,
    rank=8,
    targets="up_proj|down_proj",
    adapter="mocle",
    attention="sdpa",
    checkpointing=False,
    dropout=0.0,
    fused=True,
    seed=0,
):
    """On the CPU, float32, in training mode. `adapter`: mocle, top2 (no universal expert), token or lora.

    `fused`: head and adapter as training has them by default; else the plain paths.
    """
    torch.manual_seed(seed)
    config = LlavaConfig(
        text_config=LlamaConfig(
            hidden_size=hidden,
            intermediate_size=intermediate,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=kv_heads,
            vocab_size=vocab,
        ),
        vision_config=CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=56,
            patch_size=14,
        ),
        image_token_index=vocab - 1,
        image_seq_length=IMAGE_TOKENS,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation=attention)
    model.config.use_cache = model.config.text_config.use_cache = False
    routing = {
        "mocle": {"num_experts": 4, "num_clusters": 4, "cluster_dim": 16},
        "top2": {"num_experts": 4, "num_clusters": 4, "cluster_dim": 16, "top_k": 2, "universal_expert": False},
        "token": {"router": "token", "num_experts": 4, "universal_expert": False},
        "lora": {"router": "none", "num_experts": 1, "universal_expert": False},
    }[adapter]
    model = get_peft_model(
        model,
        MocleConfig(
            task_type="CAUSAL_LM",
            target_modules=rf".*language_model\..*\.({targets})",
            modules_to_save=["multi_modal_projector"],
            r=rank,
            lora_dropout=dropout,
            **routing,
        ),
    )
    choose_products(AdapterArguments(fused_adapter=fused), parts_of(model.get_base_model()), model)
    if fused:
        put_supervised_head(model.get_base_model())
    if checkpointing:
        model.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
        model.get_base_model().disable_input_require_grads()  # as the trainer does
    return model.train()


def make_batch(model, samples, length, padded=False):
    """One image a sample, whose tokens come second; `padded` shortens the first sample."""
    vocab = model.config.get_text_config().vocab_size
    ids = torch.randint(3, vocab - 1, (samples, length))
    ids[:, 1 : 1 + IMAGE_TOKENS] = vocab - 1
    mask = torch.ones(samples, length, dtype=torch.long)
    if padded:
        mask[0, -5:] = 0
    batch = {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.clone(),
        "pixel_values": torch.randn(samples, 3, 56, 56),
    }
    if model.peft_config["default"].router == "cluster":
        batch["cluster_ids"] = torch.arange(samples) % 4
    return batch


def loss_of(model, batch):
    """The mean loss as the trainer computes it with this head."""
    head = model.get_base_model().get_output_embeddings()
    if not isinstance(head, SupervisedHead):
        return model(**batch).loss
    inputs = {name: value for name, value in batch.items() if name != "labels"}
    with head.supervising(batch["labels"]):
        return model(**inputs).logits.mean()


def batch_shape(model, samples, length, padded=False):
    """The planner's `Batch` of `make_batch`, in which every token but the first of a sample is supervised."""
    head = model.get_base_model().get_output_embeddings()
    supervised = samples * (length - 1) if isinstance(head, SupervisedHead) else None
    return Batch(samples, length, samples, padded, supervised)
