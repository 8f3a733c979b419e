"""LAVIS' InstructBLIP becomes transformers' with the logits of LAVIS' formulas, and the tokens of its tokenizers."""

import shutil

import pytest
import torch
from PIL import Image
from transformers import (
    BertTokenizerFast,
    InstructBlipForConditionalGeneration,
    InstructBlipProcessor,
    LlamaConfig,
    LlamaForCausalLM,
)

from llava_mocle.conversion.lavis import convert_lavis
from llava_mocle.errors import CheckpointError, ConfigError
from tests.conversion import authors
from tests.data.sentencepiece_model import SlowLlama, train_sentencepiece

# The widths of heads that LAVIS has: 88 in the tower, 64 in the Q-Former.
WIDE = authors.Sizes(hidden=64, vision=88, heads=1)
PATCH, SIDE = 8, 16


def tower_shapes(blocks):
    width = WIDE.vision
    shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + (SIDE // PATCH) ** 2, width),
        "patch_embed.proj.weight": (width, 3, PATCH, PATCH),
        "patch_embed.proj.bias": (width,),
    }
    for i in range(blocks):
        for norm in ("norm1", "norm2"):
            shapes |= {f"blocks.{i}.{norm}.weight": (width,), f"blocks.{i}.{norm}.bias": (width,)}
        shapes |= {f"blocks.{i}.attn.{name}": (width,) for name in ("q_bias", "v_bias", "proj.bias")}
        shapes |= {f"blocks.{i}.attn.qkv.weight": (3 * width, width), f"blocks.{i}.attn.proj.weight": (width, width)}
        shapes |= {f"blocks.{i}.mlp.fc1.weight": (20, width), f"blocks.{i}.mlp.fc1.bias": (20,)}
        shapes |= {f"blocks.{i}.mlp.fc2.weight": (width, 20), f"blocks.{i}.mlp.fc2.bias": (width,)}
    return shapes


def save(path, content):
    torch.save(content, path)
    return path


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A BERT tokenizer of 49 tokens: 50 with [DEC], as the Q-Former of these tests."""
    folder = tmp_path_factory.mktemp("bert")
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *"abcdefghijklmnopqrstuvwxyz", *(f"##{letter}" for letter in "abcdefghijklmnopqr")]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    assert len(tokenizer) == 49
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def language(llava_folder):
    return llava_folder.parent / "language"


def state_of(sizes=authors.SMALL, extra=()):
    return authors.random_state(authors.bridge_shapes(sizes) | dict(extra))


def close(found, expected):
    return (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


@torch.no_grad()
def test_onto_a_base(tmp_path, parts):
    state = state_of()
    file = save(tmp_path / "trimmed.pth", {"model": state | authors.buffers()})
    # Of the buffers only the Q-Former's is LAVIS' own; those of an encoder of sentences are refused.
    with pytest.raises(CheckpointError, match=r"sbert|llm_model"):
        convert_lavis(
            save(tmp_path / "x.pth", state | {"sbert.x": torch.zeros(1)}), tmp_path / "out", base=parts / "base"
        )
    lines = convert_lavis(file, tmp_path / "out", base=parts / "base")
    model = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    batch = authors.batch()
    assert close(model(**batch).logits, authors.their_logits(parts / "base", state, batch))
    assert "base" in lines[-1]


@pytest.mark.parametrize("place", ["a file of its own", "in the checkpoint"])
@torch.no_grad()
def test_out_of_parts(tmp_path, language, bert, place):
    state = state_of(WIDE)
    tower = authors.random_state(tower_shapes(3), seed=5)
    tower |= {name: 1 + value for name, value in tower.items() if "norm" in name and name.endswith("weight")}
    beside = {f"visual_encoder.{name}": value for name, value in tower.items()}
    options = {"language_model": language, "qformer_tokenizer": bert}
    if place == "in the checkpoint":
        file = save(tmp_path / "lavis.pth", {"model": state | beside})
    else:
        file = save(tmp_path / "lavis.pth", {"model": state})
        left = {"norm.weight": torch.zeros(88), "head.weight": torch.zeros(2, 88)}
        options["vision"] = save(tmp_path / "eva_vit_g.pth", tower | left)
    lines = convert_lavis(file, tmp_path / "out", **options)
    assert place == "in the checkpoint" or "head.weight, norm.weight" in "\n".join(lines)
    model = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "out").eval()
    batch = authors.batch()
    batch["input_ids"][:, : authors.QUERIES] = model.config.image_token_index
    features = authors.their_tower(beside, batch["pixel_values"], WIDE)
    images = authors.image_embeddings(state, features, batch["qformer_input_ids"], WIDE)
    prompt = model.get_input_embeddings()(batch["input_ids"][:, authors.QUERIES :])
    expected = model.language_model(inputs_embeds=torch.cat((images, prompt), dim=1)).logits
    assert close(model(**batch).logits, expected)


def test_the_language_model_is_the_given_one(tmp_path, language, bert):
    tower = authors.random_state(tower_shapes(1))
    file = save(tmp_path / "lavis.pth", state_of(WIDE) | {f"visual_encoder.{k}": v for k, v in tower.items()})
    convert_lavis(file, tmp_path / "out", language_model=language, qformer_tokenizer=bert)
    whole = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "out").language_model.state_dict()
    for name, value in LlamaForCausalLM.from_pretrained(language).state_dict().items():
        assert torch.equal(whole[name][: len(value)], value), name


def test_tokens_are_those_of_lavis(tmp_path, language, bert):
    """[PAD] is a new token, `</s>` begins and ends a text, and BERT knows [DEC]."""
    tower = authors.random_state(tower_shapes(1))
    file = save(tmp_path / "lavis.pth", state_of(WIDE) | {f"visual_encoder.{k}": v for k, v in tower.items()})
    convert_lavis(file, tmp_path / "out", language_model=language, qformer_tokenizer=bert)
    processor = InstructBlipProcessor.from_pretrained(tmp_path / "out", backend="pil")
    tokenizer = processor.tokenizer
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("</s>", "</s>", "[PAD]")
    assert tokenizer.truncation_side == processor.qformer_tokenizer.truncation_side == "left"
    assert processor.num_query_tokens == authors.QUERIES
    assert processor.image_processor.size["height"] == SIDE
    assert len(processor.qformer_tokenizer) == 50
    model = InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "out")
    assert model.config.image_token_index == tokenizer.convert_tokens_to_ids("<image>")
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id


def test_a_text_has_the_ids_of_lavis_slow_tokenizer(tmp_path, bert):
    """sentencepiece's ids after `</s>`, which that tokenizer takes for the start token that it is told to have."""
    vicuna = tmp_path / "vicuna"
    vicuna.mkdir()
    model_file = train_sentencepiece(tmp_path)
    shutil.copy(model_file, vicuna / "tokenizer.model")
    (vicuna / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "legacy": true}')
    config = LlamaConfig(
        vocab_size=560, hidden_size=authors.TEXT, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(vicuna)
    tower = {f"visual_encoder.{k}": v for k, v in authors.random_state(tower_shapes(1)).items()}
    file = save(tmp_path / "lavis.pth", state_of(WIDE) | tower)
    convert_lavis(file, tmp_path / "out", language_model=vicuna, qformer_tokenizer=bert)
    processor = InstructBlipProcessor.from_pretrained(tmp_path / "out", backend="pil")
    slow = SlowLlama(model_file)
    for text in ("What is shown in this picture?", "Question: how many? Short answer:", "你好"):
        assert processor.tokenizer(text).input_ids == [2, *slow.encode(text, legacy=True)]
        found = processor(images=Image.new("RGB", (20, 10)), text=text).input_ids[0]
        image = processor.tokenizer.convert_tokens_to_ids("<image>")
        assert list(found) == [image] * authors.QUERIES + [2, *slow.encode(text, legacy=True)]


def test_the_last_block_of_eva_is_left_out(tmp_path, language, bert, monkeypatch):
    """LAVIS builds one block less than its file of EVA-CLIP-g has; here the file has 3."""
    monkeypatch.setattr("llava_mocle.conversion.lavis._MOST_BLOCKS", 2)
    tower = save(tmp_path / "eva.pth", authors.random_state(tower_shapes(3)))
    file = save(tmp_path / "lavis.pth", state_of(WIDE))
    lines = convert_lavis(file, tmp_path / "out", language_model=language, qformer_tokenizer=bert, vision=tower)
    assert (
        InstructBlipForConditionalGeneration.from_pretrained(tmp_path / "out").config.vision_config.num_hidden_layers
        == 2
    )
    assert "blocks.2." in "\n".join(lines)


def test_what_is_missing_or_too_much_is_named(tmp_path, parts, language, bert):
    state = state_of()
    out = tmp_path / "out"
    file = save(tmp_path / "lavis.pth", state)
    with pytest.raises(ConfigError, match=r"either --base .* or --language-model"):
        convert_lavis(file, out)
    with pytest.raises(ConfigError, match=r"either --base .* or --language-model"):
        convert_lavis(file, out, base=parts / "base", language_model=language)
    with pytest.raises(ConfigError, match="--vision goes with --language-model"):
        convert_lavis(file, out, base=parts / "base", vision=file)
    with pytest.raises(ConfigError, match="holds no vision tower: give --vision"):
        convert_lavis(file, out, language_model=language, qformer_tokenizer=bert)
    gone = "Qformer.bert.encoder.layer.0.crossattention.self.key.bias"
    with pytest.raises(CheckpointError, match=r"lacks 1 weight.*crossattention\.attention\.key\.bias"):
        convert_lavis(save(tmp_path / "a.pth", {k: v for k, v in state.items() if k != gone}), out, base=parts / "base")
    with pytest.raises(CheckpointError, match=r"t5_proj\.weight"):
        convert_lavis(save(tmp_path / "b.pth", state | {"t5_proj.weight": torch.zeros(1)}), out, base=parts / "base")
    experts = {f"{authors.LLM}model.layers.0.self_attn.q_proj.lora_A.0.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="--released"):
        convert_lavis(save(tmp_path / "c.pth", state | experts), out, base=parts / "base")
    tower = {f"visual_encoder.{k}": v for k, v in authors.random_state(tower_shapes(1)).items()}
    words = {"Qformer.bert.embeddings.word_embeddings.weight": torch.zeros(51, 64)}
    wide = save(tmp_path / "d.pth", state_of(WIDE) | words | tower)
    with pytest.raises(CheckpointError, match="knows 51"):
        convert_lavis(wide, out, language_model=language, qformer_tokenizer=bert)
    assert not out.exists()
