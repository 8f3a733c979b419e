"""A checkpoint in the authors' format becomes an adapter whose logits are those of their formulas."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import InstructBlipForConditionalGeneration

from llava_mocle.adapter import collapse
from llava_mocle.clustering import ClusterModel
from llava_mocle.conversion.released import convert_released
from llava_mocle.errors import CheckpointError, ClusterModelError, ConfigError
from tests.conversion import authors

CLUSTERS = torch.tensor([0, 1, 2, 3, 4])


def whole_state(**options):
    dtype = options.pop("dtype", torch.float32)
    shapes = authors.bridge_shapes() | authors.expert_shapes(**options)
    return authors.random_state(shapes, dtype=dtype)


def convert(parts, tmp_path, content, temperature=authors.TAU, **changes):
    file = tmp_path / "c5_t005.pth"
    torch.save(content, file)
    given = {"kmeans": parts / "kmeans.pkl", "base": parts / "base", "encoder": parts / "encoder"} | changes
    kmeans, base, encoder = given["kmeans"], given["base"], given["encoder"]
    return convert_released(file, kmeans, base, tmp_path / "out", temperature=temperature, encoder=encoder)


@torch.no_grad()
def our_logits(parts, folder, clusters=CLUSTERS):
    model = InstructBlipForConditionalGeneration.from_pretrained(parts / "base")
    return PeftModel.from_pretrained(model, folder).eval()(**authors.batch(), cluster_ids=clusters).logits


def as_saved(state):
    return state | authors.buffers()


def renamed(state, *changes):
    result = {}
    for name, value in state.items():
        for old, new in changes:
            name = name.replace(old, new)
        result[name] = value
    return result


FORMS = {
    "as LAVIS saves": lambda state: {"model": as_saved(state), "optimizer": {"state": {}}, "config": {}, "epoch": 3},
    "a state dict": as_saved,
    "wrapped for several GPUs": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}},
    "without PEFT's prefix": lambda state: {"model": renamed(state, (authors.LLM, "llm_model."))},
    "without the language model's prefix": lambda state: renamed(state, ("llm_model.", "")),
    "bare parameters": lambda state: renamed(
        state, *((f"lora_{half}.{e}.weight", f"lora_{half}.{e}") for half in "AB" for e in (0, 1, 2, 3, "g")),
        ("task_emb.weight", "task_emb"),
    ),
    "an adapter's name inserted": lambda state: renamed(
        state, ("lora_A.", "lora_A.default."), ("lora_B.", "lora_B.default."), ("w_gate.", "w_gate.default."),
    ),
    "the tower and the encoder beside it": lambda state: {
        "model": state | {"visual_encoder.cls_token": torch.zeros(1), "sbert.1.weight": torch.zeros(1)},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_logits_are_those_of_the_authors_formulas(parts, tmp_path, form):
    state = whole_state()
    convert(parts, tmp_path, FORMS[form](state))
    expected = authors.their_logits(parts / "base", state, authors.batch(), CLUSTERS.tolist())
    found = our_logits(parts, tmp_path / "out")
    # Both are float32 sums of a few dozen terms; 1e-5 is some tens of roundings of logits near 1 to 5.
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    wrong = our_logits(parts, tmp_path / "out", CLUSTERS.flip(0))
    assert (wrong - expected).abs().amax(dim=(1, 2))[[0, 1, 3, 4]].min() > 1e-2


def test_half_precision_files(parts, tmp_path):
    state = whole_state(dtype=torch.float16)
    convert(parts, tmp_path, {"model": as_saved(state)})
    expected = authors.their_logits(parts / "base", state, authors.batch(), CLUSTERS.tolist())
    assert (our_logits(parts, tmp_path / "out") - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)


def test_without_a_universal_expert_the_gate_is_applied_once(parts, tmp_path):
    state = whole_state(universal=False)
    lines = convert(parts, tmp_path, state)
    expected = authors.their_logits(parts / "base", state, authors.batch(), CLUSTERS.tolist())
    assert (our_logits(parts, tmp_path / "out") - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
    assert "universal expert no" in lines[0]


def test_the_experiment_would_notice_the_gates(parts):
    """The gates of the test lie between 1 / E and 1 and the choice is not always the same expert."""
    state = whole_state()
    gates = []
    for name, table in state.items():
        if name.endswith("task_emb.weight"):
            site = name.removesuffix("task_emb.weight")
            logits = table @ state[f"{site}w_gate.weight"].T + state[f"{site}w_gate.bias"]
            gates.append((logits / authors.TAU).softmax(-1))
    strongest, expert = torch.cat(gates).max(-1)
    assert ((strongest < 0.9) & (strongest > 0.3)).sum() >= 3
    assert len(expert.unique()) == authors.EXPERTS


def test_the_folder_says_what_the_authors_code_does(parts, tmp_path):
    lines = convert(parts, tmp_path, {"model": as_saved(whole_state())})
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    expected = {
        "gate_mode": "released", "r": 3, "lora_alpha": 32, "lora_dropout": 0.1, "num_experts": 4, "num_clusters": 5,
        "cluster_dim": 32, "universal_expert": True, "top_k": 1, "temperature": 0.05, "gate_noise_std": 0.1,
        "parameters_to_save": ["query_tokens"], "peft_type": "MOCLE", "task_type": "CAUSAL_LM",
        "base_model_name_or_path": str(parts / "base"),
    }  # fmt: skip
    assert {key: config[key] for key in expected} == expected
    assert sorted(config["modules_to_save"]) == ["language_projection", "qformer", "vision_model.post_layernorm"]
    assert len(config["sites"]) == 4
    text = "\n".join(lines)
    for said in ("alpha 32, dropout 0.1", "top-k 1", "noise in training 0.1", "Vicuna-7B v1.1", "position ids"):
        assert said in text
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| temperature | 0.05, from --temperature |" in card
    assert str(tmp_path.parent) not in card


def test_clusters_are_those_of_the_k_means(parts, tmp_path):
    import joblib
    from sentence_transformers import SentenceTransformer

    convert(parts, tmp_path, whole_state())
    clusters = ClusterModel.load(tmp_path / "out" / "clusters", encoder=parts / "encoder")
    texts = [f"Question: what is {word}? Short answer:" for word in ("this", "a cat", "12", "the sum", "left", "blue")]
    kmeans = joblib.load(parts / "kmeans.pkl")
    embedded = SentenceTransformer(str(parts / "encoder"), device="cpu").encode(texts)
    embedded /= np.linalg.norm(embedded, axis=1, keepdims=True)
    assert clusters.assign(texts)[0].tolist() == kmeans.predict(embedded).tolist()
    assert np.array_equal(clusters.centroids, kmeans.cluster_centers_)
    assert clusters.rule.turns == "first"


# ------ the temperature


def test_the_temperature_that_the_file_keeps(parts, tmp_path):
    kept = {"model": {"gates_tmp": 0.1, "llm_model": "/data/vicuna-7b-v1.1", "lora_rank": 3, "topk": 1}}
    content = {"model": whole_state(), "config": kept}
    lines = convert(parts, tmp_path, content, temperature=None)
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert config["temperature"] == 0.1
    assert "configuration: vicuna-7b-v1.1" in "\n".join(lines)
    shutil.rmtree(tmp_path / "out")
    convert(parts, tmp_path, content, temperature=0.1)
    shutil.rmtree(tmp_path / "out")
    with pytest.raises(ConfigError, match=r"--temperature is 0\.2.*trained with 0\.1"):
        convert(parts, tmp_path, content, temperature=0.2)


def test_a_missing_temperature_is_asked_for(parts, tmp_path):
    with pytest.raises(ConfigError, match=r"--temperature.*c64_t005: 0\.05.*gates_tmp.*paper's is 0\.05"):
        convert(parts, tmp_path, whole_state(), temperature=None)
    assert not (tmp_path / "out").exists()


# ------ what is refused


def test_every_weight_is_accounted_for(parts, tmp_path):
    state = whole_state()
    for extra in (
        "llm_model.base_model.model.lm_head.weight",
        "Qformer.cls.predictions.bias",
        "temp",
        "llm_projx.bias",
    ):
        with pytest.raises(CheckpointError, match=rf"1 weight.*{extra}"):
            convert(parts, tmp_path, state | {extra: torch.zeros(2)})
    assert not (tmp_path / "out").exists()


def without(state, *names):
    return {name: value for name, value in state.items() if name not in names}


SITE = f"{authors.LLM}model.layers.1.self_attn.q_proj."
DAMAGED = {
    "an expert is missing": (lambda s: without(s, f"{SITE}lora_B.2.weight"), r"layers\.1.*lora_B\.2"),
    "the universal expert of one site": (lambda s: without(s, f"{SITE}lora_A.g.weight"), r"lora_A\.g"),
    "a gate's bias": (lambda s: without(s, f"{SITE}w_gate.bias"), r"w_gate\.bias"),
    "an expert too many": (lambda s: s | {f"{SITE}lora_A.4.weight": torch.zeros(3, 32)}, r"lora_A\.4"),
    "another rank": (lambda s: s | {f"{SITE}lora_A.1.weight": torch.zeros(2, 32)}, "differ in shape"),
    "another width": (
        lambda s: {k: (v[..., :20] if ".lora_A." in k else v) for k, v in s.items()}, r"experts_A has shape",
    ),
    "a site too few": (lambda s: {k: v for k, v in s.items() if not k.startswith(SITE)}, "adapts 3 linears"),
    "half a Q-Former": (
        lambda s: without(s, "Qformer.bert.encoder.layer.1.output_query.dense.bias"), r"lacks 1.*output_query",
    ),
    "a Q-Former of another vocabulary": (
        lambda s: s | {"Qformer.bert.embeddings.word_embeddings.weight": torch.zeros(51, 16)}, "word_embeddings",
    ),
    "no experts": (lambda s: {k: v for k, v in s.items() if not k.startswith("llm_model")}, "no experts"),
    "nothing": (lambda s: {"model": {}}, "no weights"),
    "no tensors": (lambda s: {"model": {"x": 1}}, "no weights"),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_checkpoints_are_refused(parts, tmp_path, name):
    change, message = DAMAGED[name]
    with pytest.raises(CheckpointError, match=message):
        convert(parts, tmp_path, change(whole_state()))
    assert not (tmp_path / "out").exists()


def test_a_configuration_of_another_run_is_refused(parts, tmp_path):
    content = {"model": whole_state(), "config": {"model": {"total_tasks": 64}}}
    with pytest.raises(CheckpointError, match=r"total_tasks 64.*weights are of 5"):
        convert(parts, tmp_path, content)


def test_parts_that_do_not_fit_are_refused(parts, tmp_path):
    authors.write_kmeans(tmp_path / "other.pkl", clusters=3)
    with pytest.raises(CheckpointError, match=r"3 centroids of 32.*trained with 5 of 32"):
        convert(parts, tmp_path, whole_state(), kmeans=tmp_path / "other.pkl")
    authors.base_folder(tmp_path / "deeper", layers=3)
    with pytest.raises(CheckpointError, match=r"adapts 4 linears.*there are 6"):
        convert(parts, tmp_path, whole_state(), base=tmp_path / "deeper")
    with pytest.raises(CheckpointError, match="no InstructBlipForConditionalGeneration"):
        convert(parts, tmp_path, whole_state(), base=parts / "encoder")
    authors.write_kmeans(tmp_path / "wide.pkl", dim=16)
    state = authors.random_state(authors.bridge_shapes() | authors.expert_shapes(dim=16))
    with pytest.raises(ClusterModelError, match=r"16 numbers, but embeddings of .* have 32"):
        convert(parts, tmp_path, state, kmeans=tmp_path / "wide.pkl")


def test_code_in_the_checkpoint_is_refused_and_does_not_run(parts, tmp_path):
    import os

    class Runs:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/it_ran",)

    with pytest.raises(CheckpointError, match=r"c5_t005\.pth"):
        convert(parts, tmp_path, {"model": whole_state(), "config": Runs()})
    assert not (tmp_path / "it_ran").exists()


def test_what_the_file_lacks_is_kept_from_the_base_and_said(parts, tmp_path):
    state = {k: v for k, v in whole_state().items() if not k.startswith("ln_vision")}
    lines = convert(parts, tmp_path, state)
    assert lines[-1] == "not in the file, so the base's are used: vision_model.post_layernorm"


@torch.no_grad()
def test_a_cluster_of_it_is_a_plain_lora(parts, tmp_path):
    convert(parts, tmp_path, whole_state())
    base = InstructBlipForConditionalGeneration.from_pretrained(parts / "base")
    model = PeftModel.from_pretrained(base, tmp_path / "out").eval()
    expected = model(**authors.batch(), cluster_ids=torch.full((5,), 3)).logits
    collapse(model, 3, tmp_path / "one")
    plain = InstructBlipForConditionalGeneration.from_pretrained(parts / "base")
    found = PeftModel.from_pretrained(plain, tmp_path / "one").eval()(**authors.batch()).logits
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max().clamp(min=1)
