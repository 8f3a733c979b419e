"""A new Q-Former that starts from BERT, and the small InstructBLIP around the grid tower."""

from pathlib import Path

import pytest
import torch
from transformers import BertConfig, BertModel, InstructBlipQFormerModel, LlamaConfig

from llava_mocle.errors import AssetError
from llava_mocle.families.grid_instructblip import GridInstructBlip, GridInstructBlipConfig
from llava_mocle.families.grid_tower import GridVisionConfig
from llava_mocle.families.registry import family_of
from playground.build_instructblip import build, qformer_config, start_from_bert

SMALL = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}


def test_a_missing_part_names_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(AssetError, match=r"smollm2: not there\. Run: python -m playground\.prepare"):
        build(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_queries_the_new_qformer_is_bert() -> None:
    """Its text goes BERT's way until queries are mixed in; float32 sums in the same order."""
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**SMALL)).eval()
    qformer = InstructBlipQFormerModel(qformer_config(bert.config)).eval()
    start_from_bert(qformer, bert)
    ids = torch.randint(1, 40, (2, 7))
    with torch.inference_mode():
        expected = bert(input_ids=ids).last_hidden_state
        # A query that is masked out: nothing else of it reaches the text.
        query, mask = torch.zeros(2, 1, 16), torch.ones(2, 8, dtype=torch.long)
        mask[:, 0] = 0
        image = torch.zeros(2, 3, qformer.config.encoder_hidden_size)
        found = qformer(ids, attention_mask=mask, query_embeds=query, encoder_hidden_states=image).last_hidden_state
    assert torch.allclose(found[:, 1:], expected, atol=1e-5)
    layer = qformer.encoder.layer[0]
    assert torch.equal(layer.intermediate_query.dense.weight, layer.intermediate.dense.weight)


def test_the_grid_tower_is_a_vision_model_of_instructblip(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite_pytorch", reason="the 'demo' extra is not installed")
    text = {name: SMALL[name] for name in SMALL}
    config = GridInstructBlipConfig(
        vision_config=GridVisionConfig(image_size=64, grid_size=2),
        qformer_config=qformer_config(BertConfig(**SMALL)),
        text_config=LlamaConfig(**text),
        num_query_tokens=3,
        image_token_index=39,
    )
    torch.manual_seed(0)
    model = GridInstructBlip(config).eval()
    model.save_pretrained(tmp_path)
    family = family_of(config)
    loaded = family.model_class(config).from_pretrained(tmp_path).eval()
    batch = {
        "input_ids": torch.tensor([[39, 39, 39, 4, 5]]),
        "qformer_input_ids": torch.tensor([[6, 7]]),
        "pixel_values": torch.rand(1, 3, 64, 64),
    }
    with torch.inference_mode():
        assert torch.equal(model(**batch).logits, loaded(**batch).logits)
    modules = dict(loaded.named_modules())
    assert all(part in modules for part in family.parts(config).connector)
    loaded.vision_model.feature_cache_size = 5
    assert loaded.vision_model.tower.feature_cache_size == 5
