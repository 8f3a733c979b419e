"""The authors' system, written out: a checkpoint in their names, and its forward by the formulas of their code.

Their names are those of LAVIS' Q-Former (BERT with cross-attention in every second layer, and feed-forwards of their
own for the queries) and of the authors' LoRA layer. What is not converted (the vision tower, the language model's
frozen weights) is transformers'.
"""

import copy
from dataclasses import dataclass

import joblib
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from torch import nn
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    InstructBlipQFormerConfig,
    InstructBlipVisionConfig,
    LlamaConfig,
)

QUERIES, IMAGE_TOKEN, VOCABULARY = 4, 3, 40
DIM, CLUSTERS, EXPERTS, RANK = 32, 5, 4, 3
TEXT = 32
TAU = 0.05
ALPHA = 32
LLM = "llm_model.base_model.model."


@dataclass(frozen=True)
class Sizes:
    """Widths of the Q-Former and of the vision tower, and the heads of each."""

    hidden: int = 16
    vision: int = 24
    heads: int = 2


SMALL = Sizes()


def base_folder(folder, layers=2):
    torch.manual_seed(0)
    config = InstructBlipConfig(
        vision_config=InstructBlipVisionConfig(
            hidden_size=SMALL.vision, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
            patch_size=8, initializer_range=0.2,
        ),
        qformer_config=InstructBlipQFormerConfig(
            vocab_size=50, hidden_size=SMALL.hidden, intermediate_size=20, num_hidden_layers=2,
            num_attention_heads=SMALL.heads, max_position_embeddings=30,
        ),
        text_config=LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=TEXT, intermediate_size=48, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, initializer_range=0.2,
        ),
        num_query_tokens=QUERIES,
        image_token_index=IMAGE_TOKEN,
        initializer_range=0.2,
    )  # fmt: skip
    InstructBlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


def qformer_shapes(sizes=SMALL):
    """LAVIS' names of the Q-Former -> shapes."""
    hidden = sizes.hidden
    shapes = {
        "embeddings.word_embeddings.weight": (50, hidden),
        "embeddings.position_embeddings.weight": (30, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for i in range(2):
        layer = f"encoder.layer.{i}."
        attentions = {"attention": hidden, "crossattention": sizes.vision} if i % 2 == 0 else {"attention": hidden}
        for name, source in attentions.items():
            for part, size in (("query", hidden), ("key", source), ("value", source)):
                shapes[f"{layer}{name}.self.{part}.weight"] = (hidden, size)
                shapes[f"{layer}{name}.self.{part}.bias"] = (hidden,)
            shapes |= _dense(f"{layer}{name}.output", hidden, hidden, norm=True)
        for end in ("", "_query"):
            shapes |= _dense(f"{layer}intermediate{end}", 20, hidden, norm=False)
            shapes |= _dense(f"{layer}output{end}", hidden, 20, norm=True)
    return {f"Qformer.bert.{name}": shape for name, shape in shapes.items()}


def _dense(name, size, source, norm):
    shapes = {f"{name}.dense.weight": (size, source), f"{name}.dense.bias": (size,)}
    if norm:
        shapes |= {f"{name}.LayerNorm.weight": (size,), f"{name}.LayerNorm.bias": (size,)}
    return shapes


def bridge_shapes(sizes=SMALL):
    return qformer_shapes(sizes) | {
        "query_tokens": (1, QUERIES, sizes.hidden),
        "llm_proj.weight": (TEXT, sizes.hidden),
        "llm_proj.bias": (TEXT,),
        "ln_vision.weight": (sizes.vision,),
        "ln_vision.bias": (sizes.vision,),
    }


def expert_shapes(layers=2, universal=True, dim=DIM, clusters=CLUSTERS):
    shapes = {}
    for i in range(layers):
        for name, out in (("q_proj", TEXT), ("v_proj", TEXT // 2)):
            site = f"{LLM}model.layers.{i}.self_attn.{name}."
            for expert in [*map(str, range(EXPERTS)), *(["g"] if universal else [])]:
                shapes[f"{site}lora_A.{expert}.weight"] = (RANK, TEXT)
                shapes[f"{site}lora_B.{expert}.weight"] = (out, RANK)
            shapes |= {f"{site}w_gate.weight": (EXPERTS, dim), f"{site}w_gate.bias": (EXPERTS,)}
            shapes[f"{site}task_emb.weight"] = (clusters, dim)
    return shapes


def random_state(shapes, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = 0.3 * torch.randn(shape, generator=generator)
        if "LayerNorm.weight" in name or name == "ln_vision.weight":
            value = 1 + value
        if "task_emb" in name:
            value = 0.2 * value  # logits of about 0.1, so that tau 0.05 leaves gates between 1 / E and 1
        state[name] = value.to(dtype)
    return state


def buffers(layers=2):
    """What LAVIS' runner saves beside what was trained: every buffer, as they need no gradient."""
    state = {f"{LLM}model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(layers)}
    state["Qformer.bert.embeddings.position_ids"] = torch.arange(30)[None]
    state["sbert.0.auto_model.embeddings.position_ids"] = torch.arange(20)[None]
    return state


def write_kmeans(path, dim=DIM, clusters=CLUSTERS, seed=0):
    points = np.random.default_rng(seed).standard_normal((60, dim)).astype(np.float32)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    model = KMeans(clusters, n_init=1, random_state=seed).fit(points)
    joblib.dump(model, path)
    return model


class TheirLinear(nn.Module):
    """A linear with the authors' experts: the gate is applied when experts are combined, and once more to the sum."""

    def __init__(self, linear, state, site, tau):
        super().__init__()
        self.linear, self.tau = linear, tau
        self.parts = {name.removeprefix(site): value.float() for name, value in state.items() if name.startswith(site)}
        self.clusters = None

    def expert(self, x, name):
        return x @ self.parts[f"lora_A.{name}.weight"].T @ self.parts[f"lora_B.{name}.weight"].T * (ALPHA / RANK)

    def forward(self, x):
        result = self.linear(x)
        rows = []
        for sample, cluster in zip(x, self.clusters, strict=True):
            logits = self.parts["w_gate.weight"] @ self.parts["task_emb.weight"][cluster] + self.parts["w_gate.bias"]
            gates = (logits / self.tau).half().softmax(0)
            best = int(gates.argmax())
            combined = self.expert(sample, best) * gates[best]
            if "lora_A.g.weight" in self.parts:
                w = gates.max()
                combined = combined * w + self.expert(sample, "g") * (1 - w)
            rows.append(combined)
        return result + torch.stack(rows)


def their_qformer(state, queries, ids, images, sizes=SMALL):
    """LAVIS' Q-Former: (B, Q + T, hidden) out of query tokens, text ids and image features."""
    w = {name.removeprefix("Qformer.bert."): value.float() for name, value in state.items()}

    def linear(name, x):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"])

    def norm(name, x):
        return F.layer_norm(x, (sizes.hidden,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-12)

    def attend(name, x, source):
        def heads(part, value):
            return linear(f"{name}.self.{part}", value).unflatten(-1, (sizes.heads, -1)).transpose(1, 2)

        scores = heads("query", x) @ heads("key", source).transpose(-1, -2) / (sizes.hidden // sizes.heads) ** 0.5
        mixed = (scores.softmax(-1) @ heads("value", source)).transpose(1, 2).flatten(2)
        return norm(f"{name}.output.LayerNorm", linear(f"{name}.output.dense", mixed) + x)

    def feed(layer, end, x):
        inner = F.gelu(linear(f"{layer}intermediate{end}.dense", x))
        return norm(f"{layer}output{end}.LayerNorm", linear(f"{layer}output{end}.dense", inner) + x)

    text = w["embeddings.word_embeddings.weight"][ids] + w["embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = norm("embeddings.LayerNorm", torch.cat((queries, text), dim=1))
    for i in range(2):
        layer = f"encoder.layer.{i}."
        x = attend(f"{layer}attention", x, x)
        query, words = x[:, :QUERIES], x[:, QUERIES:]
        if i % 2 == 0:
            query = attend(f"{layer}crossattention", query, images)
        x = torch.cat((feed(layer, "_query", query), feed(layer, "", words)), dim=1)
    return x


def their_tower(state, pixels, sizes):
    """LAVIS' vision tower, up to ln_vision: (B, 1 + patches, width)."""
    w = {name.removeprefix("visual_encoder."): value.float() for name, value in state.items()}

    def linear(name, x, bias=None):
        return F.linear(x, w[f"{name}.weight"], w[f"{name}.bias"] if bias is None else bias)

    def norm(name, x):
        return F.layer_norm(x, (sizes.vision,), w[f"{name}.weight"], w[f"{name}.bias"], 1e-6)

    kernel = w["patch_embed.proj.weight"]
    patches = F.conv2d(pixels, kernel, w["patch_embed.proj.bias"], stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat((w["cls_token"].expand(len(pixels), -1, -1), patches), dim=1) + w["pos_embed"]
    i = 0
    while f"blocks.{i}.norm1.weight" in w:
        block = f"blocks.{i}."
        bias = torch.cat((w[f"{block}attn.q_bias"], torch.zeros(sizes.vision), w[f"{block}attn.v_bias"]))
        mixed = linear(f"{block}attn.qkv", norm(f"{block}norm1", x), bias).unflatten(-1, (3, sizes.heads, -1))
        query, key, value = mixed.permute(2, 0, 3, 1, 4)
        scores = (query @ key.transpose(-1, -2) / (sizes.vision // sizes.heads) ** 0.5).softmax(-1)
        x = x + linear(f"{block}attn.proj", (scores @ value).transpose(1, 2).flatten(2))
        x = x + linear(f"{block}mlp.fc2", F.gelu(linear(f"{block}mlp.fc1", norm(f"{block}norm2", x))))
        i += 1
    return x


@torch.no_grad()
def image_embeddings(state, features, ids, sizes=SMALL):
    """What the language model sees of an image, (B, Q, text width), out of the tower's features."""
    norm = [state[f"ln_vision.{kind}"].float() for kind in ("weight", "bias")]
    features = F.layer_norm(features, (sizes.vision,), *norm, 1e-6)
    queries = state["query_tokens"].float().expand(len(features), -1, -1)
    queries = their_qformer(state, queries, ids, features, sizes)[:, :QUERIES]
    return F.linear(queries, state["llm_proj.weight"].float(), state["llm_proj.bias"].float())


@torch.no_grad()
def their_logits(base, state, batch, clusters=None, tau=TAU):
    """The logits of the authors' model, (B, T, vocabulary); without experts where `clusters` is None."""
    model = InstructBlipForConditionalGeneration.from_pretrained(base).eval()
    vision = model.vision_model
    features = vision.encoder(inputs_embeds=vision.embeddings(batch["pixel_values"])).last_hidden_state
    images = image_embeddings(state, features, batch["qformer_input_ids"])
    language_model = copy.deepcopy(model.language_model)
    if clusters is not None:
        for i, layer in enumerate(language_model.model.layers):
            for name in ("q_proj", "v_proj"):
                site = f"{LLM}model.layers.{i}.self_attn.{name}."
                theirs = TheirLinear(getattr(layer.self_attn, name), state, site, tau)
                theirs.clusters = clusters
                setattr(layer.self_attn, name, theirs)
    prompt = language_model.get_input_embeddings()(batch["input_ids"][:, QUERIES:])
    return language_model(inputs_embeds=torch.cat((images, prompt), dim=1)).logits


def batch(rows=5, length=6, seed=3):
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(5, VOCABULARY, (rows, length), generator=generator)
    ids = torch.cat((torch.full((rows, QUERIES), IMAGE_TOKEN), prompt), dim=1)
    return {
        "pixel_values": torch.randn(rows, 3, 16, 16, generator=generator),
        "qformer_input_ids": torch.randint(2, 50, (rows, 5), generator=generator),
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
    }
