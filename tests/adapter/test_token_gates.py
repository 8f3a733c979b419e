"""The token router against a plain loop in float64, and what a whole model makes of it."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model
from torch import nn

from llava_mocle.adapter import MlpNames
from llava_mocle.adapter.gated_mlp import GatedMlp
from llava_mocle.adapter.token_gates import TokenGate
from llava_mocle.errors import RoutingError

from .helpers import TwoSites, tiny_llama, token_ids
from .helpers import config as cluster_config
from .instructblip import TARGETS, inputs, tiny_instructblip
from .learned import WORDS, Reader, balance_by_hand, dot, learned, mixed, probabilities_of

INPUTS = torch.randint(0, WORDS, (4, 5), generator=torch.Generator().manual_seed(2))
# Padding on the right, on the left, none, and all but one token.
MASK = torch.tensor([[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1], [0, 1, 0, 0, 0]])
PUBLISHED = {"gate_sharing": "block", "gate_bias": True, "expert_weight": "one", "balance_loss_weight": 0.3}
OPTIONS = {
    "table 7": {},
    "balance": {"balance_loss_weight": 0.3},
    "top 2": {"top_k": 2, "balance_loss_weight": 0.3},
    "renormalized": {"top_k": 2, "expert_weight": "renormalized", "gate_sharing": "block"},
    "llava-mole": {**PUBLISHED, "temperature": 1.0},
    "rank 1, 3 experts": {"r": 1, "num_experts": 3, "gate_bias": True},
}
# What float64 sums of a few hundred terms differ by in another order.
EXACT = 1e-10


def reader(**options):
    torch.manual_seed(1)
    base = Reader().double()
    torch.manual_seed(5)
    return get_peft_model(base, learned("token", **options))


def by_hand(model):
    """The output and the balance loss, token by token; padding counts in the output, and not in the balance."""
    base, config = model.get_base_model(), model.peft_config["default"]
    outputs = []
    seen = {}  # (sample, gate) -> the probabilities of its tokens that count
    for sample, row in enumerate(INPUTS.tolist()):
        for place, token in enumerate(row):
            x = base.words.weight.detach()[token]
            for number, block in enumerate(base.blocks):
                hidden, gates = x, None
                for offset, site in enumerate((block.up, block.down)):
                    if gates is None or config.gate_sharing == "site":
                        gate = site.mocle_gate["default"]
                        gates = probabilities_of(dot(gate.weight, gate.bias, hidden), config)
                        if MASK[sample, place]:
                            seen.setdefault((sample, number, offset), []).append(gates)
                    experts, linear = site.mocle_experts["default"], site.get_base_layer()
                    stacks = (experts.experts_A, experts.experts_B)
                    out = linear.weight @ hidden + linear.bias + mixed(hidden, stacks, gates, config)
                    hidden = torch.tanh(out) if offset == 0 else out
                x = x + hidden
            outputs.append(x)
    balance = [balance_by_hand(rows, config) for rows in seen.values()]
    return torch.stack(outputs).view(4, 5, 7), sum(balance) / len(balance)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients_are_those_of_a_plain_loop(options):
    target = torch.randn(4, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = []
    for way in ("loop", "model"):
        model = reader(**options).train()
        weight = model.peft_config["default"].balance_loss_weight
        if way == "loop":
            output, balance = by_hand(model)
        else:
            output = model(INPUTS, attention_mask=MASK)
            parts = model.base_model.balance_losses()
            assert (parts is None) == (weight == 0)
            balance = None if parts is None else parts.mean()
        (((output - target) ** 2).sum() + (weight * balance if weight else 0)).backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        found.append((output.detach(), balance if weight else torch.zeros(()), trained))
    (expected, expected_balance, by_loop), (output, balance, by_model) = found
    assert (output - expected).abs().max() < EXACT
    assert (balance - expected_balance).abs() < EXACT
    for name, gradient in by_loop.items():
        # What no token chose has no gradient in the loop, and zeros in the model.
        assert (by_model[name] - (0 if gradient is None else gradient)).abs().max() < EXACT, name
    assert any("mocle_gate" in name for name in by_loop)


def test_statistics_leave_padding_out_and_are_of_every_site():
    model = reader(gate_noise_std=2.0).train()
    seen = []
    for site in model.sites:
        gate = model.get_base_model().get_submodule(site).mocle_gate["default"]
        gate.register_forward_hook(lambda _gate, _x, logits: seen.append(logits.detach()))
    model(INPUTS, attention_mask=MASK)
    found = model.base_model.last_routing()
    own = MASK.bool()
    assert found.share.shape == (4, 4)
    assert (found.share.sum(dim=1) - 1).abs().max() < 1e-12
    # The strongest logit without noise was overturned where the share differs; without noise they agree.
    model.eval()(INPUTS, attention_mask=MASK)
    clean = model.base_model.last_routing()
    assert (clean.overturned == 0).all()
    assert (found.overturned > 0).any()
    for index, logits in enumerate(seen[4:]):
        choices = logits.argmax(dim=-1)[own]
        shares = torch.bincount(choices, minlength=4) / len(choices)
        assert torch.allclose(clean.share[index].float(), shares)
        strongest = (logits / 0.5).softmax(dim=-1).amax(dim=-1)[own].mean()
        assert torch.allclose(clean.gate[index], strongest)
    means = clean.means(4)
    assert set(means) == {"gate", "overturned", "expert_0", "expert_1", "expert_2", "expert_3"}
    assert torch.equal(means["expert_2"], clean.share[:, 2])


def test_a_mask_of_other_tokens_is_refused():
    model = reader(balance_loss_weight=0.1).train()
    with pytest.raises(RoutingError, match=r"attention_mask has shape \(4, 3\).*4 samples of 5 tokens"):
        model(INPUTS, attention_mask=MASK[:, :3])


def test_positional_masks_count_too():
    model = reader(balance_loss_weight=0.1).train()
    model(INPUTS, attention_mask=MASK)
    expected = model.base_model.balance_losses()
    model.get_base_model()(INPUTS, MASK)
    assert torch.equal(model.base_model.balance_losses(), expected)
    model(INPUTS)
    assert not torch.equal(model.base_model.balance_losses(), expected)


def test_inputs_without_a_dimension_of_tokens():
    torch.manual_seed(1)
    model = get_peft_model(TwoSites(), learned("token", target_modules=["first", "second"], balance_loss_weight=0.1))
    x = torch.randn(5, 7)
    found = model.train()(x)
    balance = model.base_model.balance_losses()
    assert (model(x.unsqueeze(1)).squeeze(1) - found).abs().max() < 1e-6
    assert balance.shape == (5,)
    assert (model.base_model.balance_losses() - balance).abs().max() < 1e-6


def test_a_shared_gate_stands_in_the_first_site_of_its_block():
    model = reader(**PUBLISHED)
    assert [name for name, part in model.get_base_model().named_modules() if isinstance(part, TokenGate)] == [
        "blocks.0.up.mocle_gate.default",
        "blocks.1.up.mocle_gate.default",
    ]
    block = model.get_base_model().blocks[0]
    with pytest.raises(RoutingError, match=r"blocks.0.down was not called after blocks.0.up"):
        block.down(torch.zeros(4, 5, 6, dtype=torch.float64))


def test_gates_in_16_bit_compute_and_differentiate_in_32():
    gate = TokenGate(learned("token", gate_bias=True), 64).to(torch.bfloat16)
    x = torch.randn(3, 5, 64).bfloat16().requires_grad_()
    direction = torch.randn(3, 5, 4)
    logits = gate(x)
    (logits * direction).sum().backward()
    wide = [part.detach().float().requires_grad_() for part in (x, gate.weight, gate.bias)]
    expected = wide[0] @ wide[1].t() + wide[2]
    (expected * direction).sum().backward()
    assert torch.equal(logits, expected)
    for part, reference in zip((x, gate.weight, gate.bias), wide, strict=True):
        # bfloat16 rounds a gradient to one part in 256.
        assert (part.grad.float() - reference.grad).abs().max() <= reference.grad.abs().max() / 256


PROMPT = token_ids(3)


def llama(**changes):
    model = tiny_llama()
    torch.manual_seed(1)
    settings = learned("token", task_type="CAUSAL_LM", target_modules=["up_proj", "down_proj"], **changes)
    return get_peft_model(model, settings).eval()


@pytest.fixture(scope="module", params=["site", "block"])
def model(request):
    return llama(gate_sharing=request.param)


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_batch_with_left_padding_equals_each_sample_alone(model, way):
    settings = {"max_new_tokens": 8, "do_sample": False, **way}
    starts = [0, 3, 1]
    mask = torch.stack([(torch.arange(6) >= start).long() for start in starts])
    together = model.generate(input_ids=PROMPT * mask, attention_mask=mask, **settings)
    assert model.base_model.last_routing() is None
    returned = way.get("num_return_sequences", 1)
    for b, start in enumerate(starts):
        alone = model.generate(input_ids=PROMPT[b : b + 1, start:], attention_mask=mask[b : b + 1, start:], **settings)
        assert torch.equal(together[b * returned : (b + 1) * returned, start:], alone)


def test_cached_decoding_equals_the_full_forward(model):
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), **options)
    full = model(input_ids=output.sequences).logits
    for step, logits in enumerate(output.logits):
        # float32 logits of about 10, from other kernels.
        assert (logits - full[:, PROMPT.shape[1] - 1 + step]).abs().max() < 1e-4


def test_left_padding_changes_neither_logits_nor_the_balance_loss():
    model = llama(balance_loss_weight=0.1).train()
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), PROMPT], dim=1)
    mask = (torch.arange(8) >= 2).long().expand(3, -1)
    expected = model(input_ids=PROMPT, attention_mask=torch.ones_like(PROMPT)).logits
    balance = model.base_model.balance_losses()
    found = model(input_ids=padded, attention_mask=mask).logits
    assert (found[:, 2:] - expected).abs().max() < 1e-5
    assert (model.base_model.balance_losses() - balance).abs().max() < 1e-6


@pytest.mark.parametrize("sharing", ["site", "block"])
def test_checkpointing_with_noise_changes_nothing(sharing):
    found = []
    for checkpointing in (False, True):
        options = {"gate_noise_std": 0.5, "lora_dropout": 0.2, "balance_loss_weight": 0.1, "gate_sharing": sharing}
        model = llama(**options).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(7)
        for _ in range(2):
            loss = model(input_ids=PROMPT, labels=PROMPT).loss
            (loss + 0.1 * model.base_model.balance_losses().mean()).backward()
        routing = model.base_model.last_routing()
        found.append([loss.detach(), routing.share, *(p.grad for p in model.parameters() if p.requires_grad)])
    assert all((off - on).abs().max() <= 1e-6 for off, on in zip(*found, strict=True))


def test_every_parameter_has_a_gradient_whatever_the_routing():
    model = llama(expert_weight="one", balance_loss_weight=0.1).train()
    model(input_ids=PROMPT[:1, :2], labels=PROMPT[:1, :2]).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all((p.grad == 0).all() for name, p in model.named_parameters() if "mocle_gate" in name)


def test_a_saved_adapter_is_the_same_to_the_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    expected = model(input_ids=PROMPT).logits
    assert torch.equal(again(input_ids=PROMPT).logits, expected)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(input_ids=PROMPT).logits, expected)
    assert torch.equal(copied.base_model.last_routing().share, model.base_model.last_routing().share)
    with model.disable_adapter():
        assert torch.equal(model(input_ids=PROMPT).logits, tiny_llama()(input_ids=PROMPT).logits)


def test_it_never_runs_as_one_function_with_its_mlp():
    model = llama()
    assert model.base_model.fuse_mlps(MlpNames()) == 0
    assert not any(isinstance(part, GatedMlp) for part in model.modules())


def test_beside_an_adapter_that_routes_by_cluster(model):
    both = copy.deepcopy(model)
    expected = both(input_ids=PROMPT).logits
    torch.manual_seed(3)
    both.add_adapter("clusters", cluster_config())
    assert torch.equal(both(input_ids=PROMPT).logits, expected)
    both.set_adapter("clusters")
    asked = {"input_ids": PROMPT, "cluster_ids": torch.tensor([0, 3, 3])}
    assert both(**asked).logits.shape == expected.shape
    gates = [p for name, p in both.named_parameters() if "mocle_gate" in name]
    assert gates
    assert not any(p.requires_grad for p in gates)
    both.set_adapter("default")
    assert torch.equal(both(input_ids=PROMPT).logits, expected)
    both.delete_adapter("default")
    assert not any(isinstance(part, nn.Module) and isinstance(part, TokenGate) for part in both.modules())


def test_instructblip_generates_as_each_sample_alone():
    torch.manual_seed(1)
    settings = learned("token", task_type="CAUSAL_LM", target_modules=TARGETS)
    model = get_peft_model(tiny_instructblip(), settings).eval()
    batch = inputs(3)
    together = model.generate(**batch, max_new_tokens=4, do_sample=False, num_beams=2)
    for b in range(3):
        alone = {name: value[b : b + 1] for name, value in batch.items()}
        assert torch.equal(model.generate(**alone, max_new_tokens=4, do_sample=False, num_beams=2)[0], together[b])


def test_what_has_no_constant_gates_is_refused(model):
    tuner = model.base_model
    for ask in (tuner.clean_gates, tuner.merge_adapter, tuner.merge_and_unload, lambda: tuner.cluster_routing(0)):
        with pytest.raises(RoutingError, match=r"router='token'.*every token anew"):
            ask()
    with pytest.raises(RoutingError):
        model.get_base_model().get_submodule(model.sites[0]).merge()
