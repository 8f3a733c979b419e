"""The sentence router against a plain loop in float64, and what a whole model makes of it."""

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

from llava_mocle.errors import ConfigError, RoutingError

from .helpers import TwoSites, tiny_llama, token_ids
from .learned import WORDS, Reader, balance_by_hand, dot, learned, mixed, probabilities_of

# Instructions of 3, 1 and 2 tokens, padded.
INSTRUCTIONS = torch.tensor([[4, 9, 17], [2, -1, -1], [6, 12, -1], [17, 4, -1], [1, 1, 5]])
INPUTS = torch.randint(0, WORDS, (5, 3), generator=torch.Generator().manual_seed(2))
PUBLISHED = {"gate_sharing": "model", "top_k": 2, "expert_weight": "renormalized", "temperature": 1.0}
OPTIONS = {
    "table 7": {},
    "block, bias, balance": {"gate_sharing": "block", "gate_bias": True, "balance_loss_weight": 0.3},
    "top 2": {"top_k": 2, "balance_loss_weight": 0.3},
    "octavius": {**PUBLISHED, "balance_loss_weight": 0.3},
    "weight one": {"expert_weight": "one", "balance_loss_weight": 0.3},
}
# What float64 sums of a few hundred terms differ by in another order.
EXACT = 1e-10


def reader(**options):
    torch.manual_seed(1)
    base = Reader().double()
    torch.manual_seed(5)
    model = get_peft_model(base, learned("sentence", **options))
    with torch.no_grad():
        for parameter in model.base_model.mocle_router.parameters():
            parameter.mul_(4)  # choices that are not near ties
    return model


def by_hand(model, counted):
    """The output and the balance loss of all samples, gate by gate, sample by sample."""
    base, config = model.get_base_model(), model.peft_config["default"]
    router = model.base_model.mocle_router["default"]
    group = {"site": [0, 1, 2, 3], "block": [0, 0, 1, 1], "model": [0, 0, 0, 0]}[config.gate_sharing]
    words, probabilities = base.words.weight.detach(), []
    for gate in range(max(group) + 1):
        of_gate = []
        for row in INSTRUCTIONS.tolist():
            own = [token for token in row if token >= 0]
            mean = sum((words[token] for token in own), torch.zeros(7, dtype=torch.float64)) / max(len(own), 1)
            bias = None if router.gate_bias is None else router.gate_bias[gate]
            of_gate.append(probabilities_of(dot(router.gate_weight[gate], bias, mean), config))
        probabilities.append(of_gate)
    outputs = []
    for sample, row in enumerate(INPUTS.tolist()):
        for token in row:
            x = words[token]
            for number, block in enumerate(base.blocks):
                hidden = x
                for offset, site in enumerate((block.up, block.down)):
                    experts = site.mocle_experts["default"]
                    linear = site.get_base_layer()
                    gates = probabilities[group[2 * number + offset]][sample]
                    stacks = (experts.experts_A, experts.experts_B)
                    out = linear.weight @ hidden + linear.bias + mixed(hidden, stacks, gates, config)
                    hidden = torch.tanh(out) if offset == 0 else out
                x = x + hidden
            outputs.append(x)
    losses = []
    for of_gate in probabilities:
        rows = [of_gate[sample] for sample in range(len(INPUTS)) if counted[sample]]
        losses.append(balance_by_hand(rows, config))
    return torch.stack(outputs).view(5, 3, 7), sum(losses) / len(losses)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_values_and_gradients_are_those_of_a_plain_loop(options):
    counted = torch.tensor([True, True, True, False, True])
    target = torch.randn(5, 3, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    gradients = []
    for way in ("loop", "model"):
        model = reader(**options).train()
        weight = model.peft_config["default"].balance_loss_weight
        if way == "loop":
            output, balance = by_hand(model, counted.tolist())
        else:
            output = model(INPUTS, instruction_ids=INSTRUCTIONS)
            parts = model.base_model.balance_losses(counted)
            assert (parts is None) == (weight == 0)
            balance = None if parts is None else parts[counted].mean()
        loss = ((output - target) ** 2).sum() + (weight * balance if weight else 0)
        loss.backward()
        trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
        gradients.append((output.detach(), balance if weight else torch.zeros(()), trained))
    (expected, expected_balance, by_loop), (found, found_balance, by_model) = gradients
    assert (found - expected).abs().max() < EXACT
    assert (found_balance - expected_balance).abs() < EXACT
    for name, gradient in by_loop.items():
        # An expert that nobody chose has no gradient in the loop, and zeros in the model.
        assert (by_model[name] - (0 if gradient is None else gradient)).abs().max() < EXACT, name
    chosen = model.base_model.last_routing().expert
    assert len(chosen.unique()) > 1
    assert any(len(row.unique()) < 4 for row in chosen)  # unbalanced: an expert that nobody chose


def test_published_options_have_their_shapes():
    router = reader(**PUBLISHED, gate_bias=True).base_model.mocle_router["default"]
    assert router.gate_weight.shape == (1, 4, 7)
    assert router.gate_bias.shape == (1, 4)
    assert reader().base_model.mocle_router["default"].gate_weight.shape == (4, 4, 7)
    assert reader(gate_sharing="block").base_model.mocle_router["default"].gate_weight.shape == (2, 4, 7)


PROMPT = token_ids(3)
ASKED = torch.tensor([[3, 8, 8, 30], [40, -1, -1, -1], [7, 5, -1, -1]])


def llama(**changes):
    model = tiny_llama()
    torch.manual_seed(1)
    settings = learned("sentence", task_type="CAUSAL_LM", target_modules=["up_proj", "down_proj"], **changes)
    return get_peft_model(model, settings).eval()


@pytest.fixture(scope="module")
def model():
    return llama()


@pytest.mark.parametrize("way", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_a_mixed_batch_equals_each_sample_alone(model, way):
    settings = {"max_new_tokens": 8, "do_sample": False, **way}
    mask = torch.ones_like(PROMPT)
    together = model.generate(input_ids=PROMPT, attention_mask=mask, instruction_ids=ASKED, **settings)
    returned = way.get("num_return_sequences", 1)
    for b in range(3):
        one = slice(b, b + 1)
        own = ASKED[one, : int((ASKED[b] >= 0).sum())]
        alone = model.generate(input_ids=PROMPT[one], attention_mask=mask[one], instruction_ids=own, **settings)
        assert torch.equal(together[b * returned : (b + 1) * returned], alone)


def test_cached_decoding_equals_the_full_forward(model):
    options = {"max_new_tokens": 6, "do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    output = model.generate(PROMPT, attention_mask=torch.ones_like(PROMPT), instruction_ids=ASKED, **options)
    full = model(input_ids=output.sequences, instruction_ids=ASKED).logits
    for step, logits in enumerate(output.logits):
        # float32 logits of about 10, from other kernels.
        assert (logits - full[:, PROMPT.shape[1] - 1 + step]).abs().max() < 1e-4


def test_left_padding_changes_nothing(model):
    padded = torch.cat([torch.zeros(3, 2, dtype=torch.long), PROMPT], dim=1)
    mask = (torch.arange(8) >= 2).long().expand(3, -1)
    expected = model(input_ids=PROMPT, instruction_ids=ASKED).logits
    found = model(input_ids=padded, attention_mask=mask, instruction_ids=ASKED).logits
    assert (found[:, 2:] - expected).abs().max() < 1e-5


def test_only_the_instruction_decides(model):
    model(input_ids=PROMPT, instruction_ids=ASKED)
    first = model.base_model.last_routing()
    model(input_ids=PROMPT.flip(0), instruction_ids=torch.nn.functional.pad(ASKED, (0, 3), value=-1))
    second = model.base_model.last_routing()
    assert torch.equal(first.expert, second.expert)
    assert (first.gate - second.gate).abs().max() < 1e-6


def test_checkpointing_with_noise_changes_nothing():
    found = []
    for checkpointing in (False, True):
        model = llama(gate_noise_std=0.5, lora_dropout=0.2, balance_loss_weight=0.1).train()
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        torch.manual_seed(7)
        loss = model(input_ids=PROMPT, labels=PROMPT, instruction_ids=ASKED).loss
        (loss + 0.1 * model.base_model.balance_losses().mean()).backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    assert all((off - on).abs().max() <= 1e-6 for off, on in zip(*found, strict=True))


def test_every_parameter_has_a_gradient_whatever_the_routing():
    model = llama(expert_weight="one", balance_loss_weight=0.1).train()
    model(input_ids=PROMPT[:1], labels=PROMPT[:1], instruction_ids=ASKED[:1]).loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all((p.grad == 0).all() for p in model.base_model.mocle_router.parameters())


def test_a_saved_adapter_is_the_same_to_the_bit(model, tmp_path):
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path).eval()
    asked = {"input_ids": PROMPT, "instruction_ids": ASKED}
    assert torch.equal(again(**asked).logits, model(**asked).logits)
    assert torch.equal(copy.deepcopy(model)(**asked).logits, model(**asked).logits)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        (None, "instruction_ids is missing"),
        ([[1, 2]], "found list"),
        (torch.tensor([1, 2, 3]), r"int64 of shape \(3,\)"),
        (ASKED.float(), "torch.float32"),
        (ASKED[:2], "2 rows but the batch has 3"),
        (ASKED.masked_fill(ASKED == 40, 64), r"holds \[64\]; expected tokens in \[0, 64\)"),
        (ASKED - 1, r"holds \[-2, -2"),
    ],
)
@pytest.mark.parametrize("call", ["forward", "generate"])
def test_bad_instructions_say_what_was_found(model, ids, words, call):
    run = model if call == "forward" else model.generate
    with pytest.raises(RoutingError, match=words):
        run(input_ids=PROMPT, instruction_ids=ids)


def test_what_has_no_constant_gates_is_refused(model):
    tuner = model.base_model
    for ask in (tuner.clean_gates, tuner.merge_adapter, tuner.merge_and_unload, lambda: tuner.cluster_routing(0)):
        with pytest.raises(RoutingError, match=r"router='sentence'.*every instruction anew"):
            ask()
    with pytest.raises(ConfigError, match=r"router='sentence'.*no cluster embedding"):
        tuner.set_cluster_embedding(torch.zeros(2, 2))


def test_a_model_without_word_embeddings_is_refused():
    base = TwoSites()
    with pytest.raises(ConfigError, match="TwoSites has none"):
        get_peft_model(base, learned("sentence", target_modules=["first"]))
    assert type(base.first) is torch.nn.Linear


def test_an_instruction_without_a_token_is_a_vector_of_zeros():
    model = reader(gate_bias=True)
    model(INPUTS[:2], instruction_ids=torch.tensor([[-1, -1], [3, -1]]))
    routing = model.base_model._routing.state.routings["default"]
    bias = model.base_model.mocle_router["default"].gate_bias
    assert torch.equal(routing.gates.clean_logits[:, 0], bias)
