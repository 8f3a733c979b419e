"""Options of the router: which go together, and what each of them does to an adapter."""

import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file

from llava_mocle.adapter import collapse
from llava_mocle.errors import ConfigError, RoutingError

from .helpers import config, plain_lora, relative_error, tiny_llama, tiny_peft, token_ids

BATCH = token_ids(3)
IDS = torch.tensor([4, 0, 2])
FIXED = {"gates": "fixed", "num_experts": 5, "universal_expert": False}
GROUPS = {"router": "dataset", "dataset_groups": [0, 1, 0, 1, 1]}
EMBEDDING = "base_model.mocle_router.default.cluster_embedding"


def trainable(model) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"router": "none", "train_cluster_embedding": False}, "router='none' has no cluster embedding"),
        ({"train_cluster_embedding": False} | FIXED, "gates='fixed' has no cluster embedding"),
        ({"gates": "hard"}, "gates='hard' is unknown; choose one of learned, fixed"),
        ({"gate_init": "even"}, "gate_init='even' is unknown; choose one of random, balanced"),
        ({"gate_init": "balanced", "router": "dataset"}, "router='dataset' lacks"),
        ({"gate_init": "balanced", "router": "none"}, "router='none' lacks"),
        ({"gates": "fixed", "router": "none"}, "router='none' has no such ids"),
        (FIXED | {"universal_expert": True}, "universal_expert=True with gates='fixed'.*leaves nothing over"),
        (FIXED | {"top_k": 2}, "top_k=2 with gates='fixed'"),
        (FIXED | {"gate_init": "balanced"}, "gate_init='balanced' with gates='fixed'"),
        (FIXED | {"gate_mode": "released"}, "gate_mode='released' with gates='fixed'"),
        (FIXED | {"num_experts": 4}, "one expert for each cluster, but num_experts=4 and there are 5"),
        (FIXED | {"router": "dataset", "num_experts": 4}, "one expert for each dataset.*set num_experts=5"),
        (FIXED | GROUPS, "one expert for each group, but num_experts=5 and there are 2"),
        ({"dataset_groups": [0, 1, 0, 1, 1]}, "goes with router='dataset', but router='cluster'"),
        (GROUPS | {"dataset_groups": [0, 1]}, "has 2 entries, but num_clusters=5"),
        (GROUPS | {"dataset_groups": [0, 2, 0, 2, 2]}, "without a gap"),
        (GROUPS | {"dataset_groups": [0, -1, 0, 1, 1]}, "without a gap"),
        (GROUPS | {"dataset_groups": "01011"}, "must be a list"),
    ],
)
def test_what_makes_no_sense_is_refused(changes, words):
    with pytest.raises(ConfigError, match=words):
        (plain_lora if changes.get("router") == "none" else config)(**changes)


# ------ a cluster embedding that stays at the centroids


@pytest.mark.parametrize("changes", [{}, {"gate_mode": "released"}, {"router": "dataset"}])
def test_a_fixed_embedding_is_saved_and_not_trained(tmp_path, changes):
    name = "dataset_ids" if changes.get("router") == "dataset" else "cluster_ids"
    usual, model = tiny_peft(**changes), tiny_peft(train_cluster_embedding=False, **changes)
    assert trainable(usual) - trainable(model) == {EMBEDDING}
    expected = usual(input_ids=BATCH, **{name: IDS}).logits
    assert torch.equal(model(input_ids=BATCH, **{name: IDS}).logits, expected)
    start = model.get_parameter(EMBEDDING).detach().clone()
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    gates = model.mocle_router["default"].gate_weight.detach().clone()
    for _ in range(2):
        model(input_ids=BATCH, labels=BATCH, **{name: IDS}).loss.backward()
        optimizer.step()
    assert torch.equal(model.get_parameter(EMBEDDING), start)
    assert not torch.equal(model.mocle_router["default"].gate_weight, gates)
    model.eval().save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert torch.equal(saved["base_model.mocle_router.cluster_embedding"], start)
    again = PeftModel.from_pretrained(tiny_llama(), tmp_path, is_trainable=True)
    assert trainable(again) == trainable(model)
    assert torch.equal(again(input_ids=BATCH, **{name: IDS}).logits, model(input_ids=BATCH, **{name: IDS}).logits)


def test_a_fixed_embedding_stays_fixed_where_adapters_are_switched():
    model = get_peft_model(tiny_llama(), config(train_cluster_embedding=False))
    before = trainable(model)
    model.add_adapter("second", config())
    model.set_adapter("second")
    model.set_adapter("default")
    assert trainable(model) == before
    model.set_requires_grad("default", False)
    model.set_requires_grad("default", True)
    assert trainable(model) == before


# ------ the id of the cluster, or of the dataset's group, is that of the expert


def by_hand(model, expert: int, batch: torch.Tensor) -> torch.Tensor:
    """Logits of the base with one expert added into the weights of every site, in float64."""
    base, tuner = tiny_llama().double(), model.base_model
    for name in model.sites:
        experts = tuner.model.get_submodule(name).mocle_experts["default"]
        A, B = (stack[expert].detach().double() for stack in (experts.experts_A, experts.experts_B))
        base.get_submodule(name).weight.data += 6 / 3 * B @ A
    return base(input_ids=batch).logits


@pytest.mark.parametrize(
    ("changes", "expert_of"),
    [
        (FIXED, [0, 1, 2, 3, 4]),
        (FIXED | {"router": "dataset"}, [0, 1, 2, 3, 4]),
        (FIXED | GROUPS | {"num_experts": 2}, [0, 1, 0, 1, 1]),
    ],
    ids=["cluster", "dataset", "groups"],
)
def test_an_id_is_an_expert(tmp_path, changes, expert_of):
    model = tiny_peft(**changes)
    assert not any("mocle_router" in name for name in model.state_dict())
    name = "dataset_ids" if changes.get("router") == "dataset" else "cluster_ids"
    logits = model(input_ids=BATCH, **{name: IDS}).logits
    for row, cluster in enumerate(IDS.tolist()):
        expected = by_hand(model, expert_of[cluster], BATCH[row : row + 1])
        assert relative_error(logits[row : row + 1].double(), expected) < 1e-5  # float32 against float64
    routing = model.last_routing()
    assert routing.expert.tolist() == [[expert_of[cluster] for cluster in IDS]] * 4
    assert torch.equal(routing.weight, torch.ones(4, 3))
    assert not routing.overturned.any()
    gates = torch.nn.functional.one_hot(torch.tensor(expert_of)).float()
    assert torch.equal(model.clean_gates(), gates[:, None].expand(-1, 4, -1))
    # Single ids take the way of one cluster, mixed ones the other.
    options = {"max_new_tokens": 3, "do_sample": False}
    alone = [
        model.generate(input_ids=BATCH[row : row + 1], **{name: IDS[row : row + 1]}, **options) for row in range(3)
    ]
    assert torch.equal(model.generate(input_ids=BATCH, **{name: IDS}, **options), torch.cat(alone))
    with pytest.raises(RoutingError, match=r"holds \[5\]"):
        model(input_ids=BATCH, **{name: torch.tensor([5, 0, 0])})

    model.save_pretrained(tmp_path / "saved")
    for low_memory in (False, True):
        loaded = PeftModel.from_pretrained(tiny_llama(), tmp_path / "saved", low_cpu_mem_usage=low_memory)
        assert torch.equal(loaded(input_ids=BATCH, **{name: IDS}).logits, logits)
    collapse(model, 4, tmp_path / "plain")
    plain = PeftModel.from_pretrained(tiny_llama(), tmp_path / "plain")
    assert plain.peft_config["default"].r == 3
    assert relative_error(plain(input_ids=BATCH[:1]).logits, logits[:1]) < 1e-5
    with pytest.raises(ConfigError, match="gates='fixed', and so no cluster embedding"):
        model.set_cluster_embedding(torch.zeros(5, 8))
    merged = model.merge_and_unload(cluster=4)
    assert relative_error(merged(input_ids=BATCH[:1]).logits, logits[:1]) < 1e-5


def test_only_the_chosen_experts_learn():
    model = tiny_peft(**FIXED).train()
    model(input_ids=BATCH, labels=BATCH, cluster_ids=IDS).loss.backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            moved = parameter.grad.abs().amax(dim=(1, 2)) > 0
            assert moved.tolist() == [cluster in IDS for cluster in range(5)], name


def test_recomputing_a_forward_that_was_replaced_is_refused():
    """Fixed gates have no parameters, and still tell which forwards wait for their backward."""
    model = tiny_peft(**FIXED).train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    first = model(input_ids=BATCH, labels=BATCH, cluster_ids=IDS).loss
    model(input_ids=BATCH, labels=BATCH, cluster_ids=IDS.flip(0))
    with pytest.raises(RoutingError, match="replaced by a later forward"):
        first.backward()


def test_k_of_the_centroids_counts(tmp_path):
    from safetensors.torch import save_file

    save_file({"centroids": torch.eye(6, 8)}, tmp_path / "centroids.safetensors")
    settings = config(**FIXED | {"centroids": tmp_path, "num_clusters": None, "cluster_dim": None})
    with pytest.raises(ConfigError, match="num_experts=5 and there are 6; set num_experts=6"):
        get_peft_model(tiny_llama(), settings)


def test_datasets_of_one_group_share_gates():
    model = tiny_peft(**GROUPS)
    assert model.get_parameter(EMBEDDING).shape == (2, 8)
    gates = model.clean_gates()
    assert gates.shape == (5, 4, 4)
    for dataset, group in enumerate(GROUPS["dataset_groups"]):
        assert torch.equal(gates[dataset], gates[group])  # datasets 0 and 1 are of groups 0 and 1
    other = tiny_peft(router="dataset", num_clusters=2)
    found = model(input_ids=BATCH, dataset_ids=IDS).logits
    groups = torch.tensor([GROUPS["dataset_groups"][dataset] for dataset in IDS])
    assert torch.equal(found, other(input_ids=BATCH, dataset_ids=groups).logits)
    with pytest.raises(RoutingError, match="expected ids in"):
        model(input_ids=BATCH, dataset_ids=torch.tensor([5, 0, 0]))
