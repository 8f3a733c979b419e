"""A LLaVA whose language model is stored in 4 or 8 bit, against the same values in plain linears."""

import bitsandbytes
import pytest
import torch
from torch import nn
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaConfig,
    LlavaForConditionalGeneration,
)

from llava_mocle.errors import ConfigError
from llava_mocle.model import build_llava, load_model
from llava_mocle.model import quantization as under_test
from llava_mocle.model.gathering import whole_shape
from llava_mocle.model.quantization import Quantization, parts_kept, prepare_for_training, stored_bits
from tests.model.checkpoints import inputs, logits_of, write_original
from tests.model.conftest import write_mocle
from tests.model.parts import save_language_model

# The QLoRA paper, appendix E.
NF4 = torch.tensor(
    [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
     -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0],
    dtype=torch.float64,
)  # fmt: skip
CLUSTERS = torch.tensor([0, 2, 1])
KINDS = [Quantization(4), Quantization(4, double_quant=False), Quantization(8)]


def values_of(linear: nn.Linear) -> torch.Tensor:
    """The weight (out, in) that a quantized linear stands for, in float64 from what it stores."""
    weight = linear.weight
    if isinstance(linear, bitsandbytes.nn.Linear8bitLt):
        scales = linear.state.SCB if linear.state.SCB is not None else weight.SCB
        return weight.data.double() * scales.double()[:, None] / 127
    state = weight.quant_state
    scales = state.absmax.double()
    if state.nested:
        groups = state.state2.absmax.double().repeat_interleave(state.state2.blocksize)[: len(scales)]
        scales = state.state2.code.double()[state.absmax.long()] * groups + state.offset.double()
    pairs = weight.data.flatten().long()
    # The first of two in the high half; an odd number of values leaves a half over.
    codes = torch.stack([pairs >> 4, pairs & 15], dim=1).flatten()[: state.shape.numel()]
    blocks = scales.repeat_interleave(state.blocksize)
    return (NF4[codes] * blocks[: len(codes)]).reshape(state.shape)


def quantized_linears(model: nn.Module) -> dict[str, nn.Linear]:
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def with_values_of(plain: nn.Module, quantized: nn.Module) -> nn.Module:
    """The full model, with the values that the quantized one has."""
    with torch.no_grad():
        for name, linear in quantized_linears(quantized).items():
            plain.get_submodule(name).weight.copy_(values_of(linear))
    return plain


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory, clip_tower):
    """As the others' tiny LLaVA, with rows that hold whole blocks of 64 values, as every published model's do. With
    others, bitsandbytes' code for AVX-512 gives wrong values."""
    folder = tmp_path_factory.mktemp("wide")
    return build_llava(save_language_model(folder / "language_model", hidden=64), clip_tower, folder / "llava")


@pytest.fixture(scope="module")
def mocle_folder(tmp_path_factory, base_folder, cluster_model):
    return write_mocle(tmp_path_factory.mktemp("wide_run") / "checkpoint-5", base_folder, cluster_model)


@pytest.mark.parametrize("quantization", KINDS, ids=str)
def test_the_decoders_linears_are_quantized_and_nothing_else(base_folder, quantization) -> None:
    quantized, plain = load_model(base_folder, quantization=quantization).model, load_model(base_folder).model
    found = quantized_linears(quantized)
    assert len(found) == 2 * 7  # two layers of q, k, v, o, gate, up, down
    assert all(name.startswith("model.language_model.layers.") for name in found)
    for name, module in quantized.named_modules():
        if isinstance(module, nn.Linear) and name not in found:
            assert torch.equal(module.weight, plain.get_submodule(name).weight), name
    assert stored_bits(quantized) == quantization.bits
    assert stored_bits(plain) == 16
    for name, linear in found.items():
        assert whole_shape(linear.weight) == tuple(plain.get_submodule(name).weight.shape)
        # The widest gap of NF4 is 0.304 of a block's largest value; of int8 it is 1 / 127 of a row's.
        weight = plain.get_submodule(name).weight.double()
        gap = 0.17 if quantization.bits == 4 else 1 / 254 + 1e-3  # and float16's rounding
        assert (values_of(linear) - weight).abs().max() <= gap * weight.abs().max()


def gradients(model: nn.Module, token: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)  # of the gates' noise
    batch = inputs(token)
    loss = model(**batch, labels=batch["input_ids"], cluster_ids=CLUSTERS).loss
    loss.backward()
    found = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    return found | {"loss": loss.detach()}


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("quantization", KINDS, ids=str)
def test_gradients_are_those_of_the_dequantized_base(mocle_folder, quantization, checkpointing) -> None:
    loaded = load_model(mocle_folder[0], trainable=True, quantization=quantization)
    plain = with_values_of(load_model(mocle_folder[0], trainable=True).model, loaded.model)
    if checkpointing:
        loaded.model.get_base_model().gradient_checkpointing_enable({"use_reentrant": False})
    found, expected = (gradients(model, loaded.image_token_id) for model in (loaded.model, plain))
    assert found.keys() == expected.keys()
    assert {name.rpartition(".mocle_experts.")[2] for name in found} >= {"default.experts_A", "default.experts_B"}
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        # All in float32: the weights' values and the order of sums differ in the last place, about 1e-7 a layer. A
        # gate's gradient is a difference of the experts' products, ten times smaller than they are.
        tolerance = 1e-4 if "mocle_router" in name else 1e-5
        assert (found[name] - gradient).abs().max() <= tolerance * gradient.abs().max(), name


def test_experts_in_bfloat16_over_quantized_linears(mocle_folder) -> None:
    """What DeepSpeed makes of a 16-bit run: experts, gates and norms in bfloat16 as well."""
    loaded = load_model(mocle_folder[0], "bfloat16", trainable=True, quantization=Quantization(4))
    plain = with_values_of(load_model(mocle_folder[0], "bfloat16", trainable=True).model, loaded.model)
    for model in (loaded.model, plain):
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.bfloat16()
    batch = inputs(loaded.image_token_id)
    batch["pixel_values"] = batch["pixel_values"].bfloat16()
    losses = []
    for model in (loaded.model, plain):
        torch.manual_seed(0)
        losses.append(model(**batch, labels=batch["input_ids"], cluster_ids=CLUSTERS).loss)
        losses[-1].backward()
    experts = [name for name, _ in plain.named_parameters() if "experts_B" in name]
    assert experts
    for name in experts:
        found, expected = loaded.model.get_parameter(name).grad, plain.get_parameter(name).grad
        assert found.dtype == torch.bfloat16
        # Eight bits of mantissa, and weights that are rounded to them once more.
        assert (found - expected).float().norm() <= 5e-2 * expected.float().norm(), name


@pytest.mark.parametrize("shape", [(5, 7), (33, 17), (64, 130)])
@pytest.mark.parametrize("bits", [4, 8])
def test_widths_need_not_be_multiples_of_a_block(bits, shape) -> None:
    torch.manual_seed(0)
    if bits == 4:
        linear: nn.Linear = bitsandbytes.nn.Linear4bit(shape[1], shape[0], bias=False, quant_type="nf4")
    else:
        linear = bitsandbytes.nn.Linear8bitLt(shape[1], shape[0], bias=False, has_fp16_weights=False)
    linear = linear.to("cpu")
    x = torch.randn(3, shape[1], requires_grad=True)
    out = linear(x)
    out.sum().backward()
    weight = values_of(linear)
    # Float32 sums of at most 130 products.
    torch.testing.assert_close(out.double(), x.double() @ weight.T, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(x.grad.double(), weight.sum(0).expand(3, -1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bits", [4, 8])
def test_one_checkpoint_on_a_quantized_and_on_a_full_base(mocle_folder, bits) -> None:
    folder, expected = mocle_folder
    loaded = load_model(folder, quantization=Quantization(bits))
    assert loaded.kind == "adapter"
    found = logits_of(loaded.model, loaded.image_token_id, cluster_ids=CLUSTERS)
    assert not torch.equal(found, expected)
    plain = with_values_of(load_model(folder).model, loaded.model)
    dequantized = logits_of(plain, loaded.image_token_id, cluster_ids=CLUSTERS)
    # 8 bit rounds the inputs of its linears as well when nothing is trained.
    tolerance = 1e-5 if bits == 4 else 3e-2
    assert (found - dequantized).norm() <= tolerance * dequantized.norm()


@pytest.mark.parametrize("bits", [4, 8])
def test_merging_is_refused_and_its_remedy_works(mocle_folder, tmp_path, bits) -> None:
    loaded = load_model(mocle_folder[0], quantization=Quantization(bits))
    before = logits_of(loaded.model, loaded.image_token_id, cluster_ids=CLUSTERS)
    with pytest.raises(ConfigError, match=r"quantized weight .*bits=16, no --load-4bit .* base\.dequantize\(\)"):
        loaded.model.merge_and_unload(cluster=1)
    assert torch.equal(before, logits_of(loaded.model, loaded.image_token_id, cluster_ids=CLUSTERS))
    loaded.model.get_base_model().dequantize()
    assert not quantized_linears(loaded.model)
    expected = logits_of(loaded.model, loaded.image_token_id, cluster_ids=torch.tensor([1, 1, 1]))
    merged = loaded.model.merge_and_unload(cluster=1)
    # Float32: the low-rank products are added before or after the multiplication with the input.
    torch.testing.assert_close(logits_of(merged, loaded.image_token_id), expected, atol=1e-4, rtol=0)
    merged.save_pretrained(tmp_path / "merged")
    plain = LlavaForConditionalGeneration.from_pretrained(tmp_path / "merged").eval()
    assert torch.equal(logits_of(plain, loaded.image_token_id), logits_of(merged, loaded.image_token_id))


def test_an_original_folder_is_quantized_as_well(tmp_path, base_folder, clip_tower) -> None:
    folder = write_original(tmp_path / "original", base_folder, clip_tower, with_tower=False, suffix=".safetensors")
    found, expected = (load_model(place, quantization=Quantization(4)) for place in (folder, base_folder))
    assert len(quantized_linears(found.model)) == 14
    token = expected.image_token_id
    assert torch.equal(logits_of(found.model, token), logits_of(expected.model, token))


def test_norms_are_float32_for_training(base_folder) -> None:
    model = load_model(base_folder, "bfloat16", quantization=Quantization(4)).model
    assert not any(parameter.dtype == torch.float32 for parameter in model.parameters())
    prepare_for_training(model)
    float32 = {name for name, parameter in model.named_parameters() if parameter.dtype == torch.float32}
    assert float32 == {name for name, _ in model.named_parameters() if "language_model" in name and "norm" in name}
    plain = load_model(base_folder, "bfloat16").model
    prepare_for_training(plain)
    assert {parameter.dtype for parameter in plain.parameters()} == {torch.bfloat16}


def test_no_weight_is_repacked_for_inference(base_folder) -> None:
    model = load_model(base_folder, quantization=Quantization(4)).model
    assert not any(linear.support_avx512bf16_for_cpu for linear in quantized_linears(model).values())


def test_parts_of_a_model_whose_language_model_has_its_own_output_layer() -> None:
    text = LlamaConfig(hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=40)
    config = InstructBlipConfig(
        vision_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        qformer_config={"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2},
        text_config=text.to_dict(),
    )
    with torch.device("meta"):
        kept = parts_kept(InstructBlipForConditionalGeneration(config))
    assert set(kept) == {"vision_model", "qformer", "language_projection", "language_model.lm_head"}


@pytest.mark.parametrize(("fields", "message"), [
    ({"bits": 5}, "bits is 5, expected one of 4, 8, 16"),
    ({"bits": 4, "quant_type": "int4"}, "quant_type is 'int4', expected one of nf4, fp4"),
])  # fmt: skip
def test_other_values_are_refused(fields: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Quantization(**fields)


def test_without_bitsandbytes(base_folder, monkeypatch) -> None:
    monkeypatch.setattr(under_test, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"bits is 8, and bitsandbytes.*llava_mocle\[qlora\]"):
        load_model(base_folder, quantization=Quantization(8))
