"""Requests far from all clusters, or between two: how much clusters count, and that answers follow it."""

import json
import math
import shutil

import pytest
import torch

from llava_mocle.adapter.layer import MocleLinear
from llava_mocle.cli.main import main
from llava_mocle.errors import ClusterModelError, ConfigError, RoutingError
from llava_mocle.inference import Predictor, Request
from llava_mocle.inference.weighting import FAR, Weighting
from tests.inference import tiny

# Its embedding lies beyond the distances of the six questions that the clusters were fitted to.
STRANGE = "zzz ### 12345 qqq"


def load(folder, **options) -> Predictor:
    return Predictor.from_pretrained(folder, device="cpu", dtype="float32", **options)


def test_weights_by_hand():
    far = Weighting(far_to_universal=True)
    assert far.weights([0.3], 0.5) == [1.0]
    assert far.weights([0.5], 0.5) == [1.0]
    assert far.weights([0.8], 0.5) == [0.5 / 0.8]
    soft = Weighting(soft=0.1)
    near, other = math.exp(-(0.5**2) / 0.1), math.exp(-(0.6**2) / 0.1)
    assert soft.weights([0.5, 0.6], None) == pytest.approx([near / (near + other), other / (near + other)])
    assert soft.weights([0.5, 0.5], None) == [0.5, 0.5]
    assert Weighting(soft=1e-9).weights([0.5, 0.6], None) == [1.0, 0.0]
    both = Weighting(far_to_universal=True, soft=0.1)
    assert both.weights([0.5, 0.6], 0.4) == pytest.approx([0.8 * w for w in soft.weights([0.5, 0.6], None)])
    beyond = Weighting(universal_beyond=0.95)
    assert beyond.weights([0.5], None, 0.5) == [1.0]
    assert beyond.weights([0.51], None, 0.5) == [0.0]
    assert Weighting(soft=0.1, universal_beyond=0.95).weights([0.6, 0.7], None, 0.5) == [0.0, 0.0]
    assert beyond.describe() == " universal_beyond=0.95"
    assert not Weighting()
    assert Weighting().describe() == ""
    assert both.describe() == " far_to_universal soft_assignment=0.1"


@pytest.mark.parametrize(
    "options",
    [{"far_to_universal": True}, {"soft_assignment": 0.2}, {"universal_beyond": FAR}],
    ids=["far", "soft", "beyond"],
)
def test_answers_follow_the_weights(predictor, checkpoint_dir, images, options):
    weighted = load(checkpoint_dir, **options)
    model, question = weighted.cluster_model, STRANGE
    (cluster,), (distance,) = (part.tolist() for part in model.assign([question]))
    d_ref = model.distance_quantile(FAR)
    assert distance > d_ref
    if "far_to_universal" in options:
        routing = {"cluster_ids": torch.tensor([[cluster]]), "cluster_weights": torch.tensor([[d_ref / distance]])}
    elif "universal_beyond" in options:
        routing = {"cluster_ids": torch.tensor([[cluster]]), "cluster_weights": torch.tensor([[0.0]])}
    else:
        ids, distances = model.assign_two([question])
        parts = [math.exp(-(d**2) / 0.2) for d in distances[0]]
        weights = torch.tensor([[part / sum(parts) for part in parts]])
        routing = {"cluster_ids": torch.from_numpy(ids), "cluster_weights": weights}
    # The likelihoods of candidates are a plain forward of the model, with the routing written out by hand.
    request, candidates = Request(question, images[0]), ["A dog", "Axial plane", "No"]
    found = weighted.rank(request, candidates)
    expected = []
    for candidate in candidates:
        asked = weighted.encoder.candidates(weighted._turns(request), request.image_list, [candidate])
        row, inputs = asked.rows[0], asked.inputs
        with torch.no_grad():
            logits = predictor.model(input_ids=row["input_ids"][None], **inputs, **routing).logits[0].double()
        counted = row["labels"][1:] != -100
        log_probabilities = logits[:-1].log_softmax(-1).gather(1, row["input_ids"][1:, None])[:, 0]
        expected.append(float(log_probabilities[counted].sum()))
    # Sums of float32 logits in another order (about 3e-5 a token), and distances that the predictor rounds to 1e-5.
    assert found.scores == pytest.approx(expected, abs=1e-3)
    usual = predictor.rank(request, candidates)
    assert max(abs(one - other) for one, other in zip(usual.scores, found.scores, strict=True)) > 1e-2
    assert (found.cluster_id, found.cluster_distance) == (usual.cluster_id, usual.cluster_distance)
    assert weighted.settings == predictor.settings + weighted.prompt_router.weighting.describe()


def test_batches_equal_single_requests(checkpoint_dir, images):
    weighted = load(checkpoint_dir, far_to_universal=True, soft_assignment=0.5)
    requests = [Request(question, images[0]) for question in (STRANGE, *tiny.QUESTIONS[:3])]
    requests.append(Request(STRANGE, images[1], cluster_id=1))
    together = weighted.predict_batch(requests, max_new_tokens=6)
    assert together == [weighted.predict_batch([request], max_new_tokens=6)[0] for request in requests]
    assert weighted.routes(requests) == [prediction.cluster_id for prediction in together]


def test_a_request_within_the_training_distances_stays_as_it_is(predictor, checkpoint_dir):
    far = load(checkpoint_dir, far_to_universal=True)
    distances = predictor.cluster_model.assign(tiny.QUESTIONS)[1].tolist()
    question = tiny.QUESTIONS[distances.index(min(distances))]
    candidates = ["A dog", "No"]
    assert far.rank(Request(question), candidates) == predictor.rank(Request(question), candidates)
    chosen = Request(STRANGE, cluster_id=2)
    assert far.rank(chosen, candidates) == predictor.rank(chosen, candidates)


def test_the_universal_expert_alone(checkpoint_dir, images):
    """Reference: its product, added by hand to the weights of a model whose experts are all zero."""
    beyond, bare = load(checkpoint_dir, universal_beyond=FAR), load(checkpoint_dir)
    shown = beyond.explain(STRANGE)
    assert shown.universal_weight == 1
    assert shown.mean_gates == (0, 0, 0)
    adapted = [module for module in bare.model.modules() if isinstance(module, MocleLinear)]
    assert adapted
    with torch.no_grad():
        for layer in adapted:
            experts = layer.mocle_experts["default"]
            down, up = experts.experts_A[-1].double(), experts.experts_B[-1].double()
            layer.base_layer.weight += (layer.scaling["default"] * (up @ down)).float()
            experts.experts_B.zero_()
    request, candidates = Request(STRANGE, images[0]), ["A dog", "Axial plane", "No"]
    # The same sums of float32 in another order, over some layers and tokens.
    assert beyond.rank(request, candidates).scores == pytest.approx(bare.rank(request, candidates).scores, abs=5e-3)


def test_the_explanation_shows_what_is_applied(predictor, checkpoint_dir):
    model = predictor.cluster_model
    usual = predictor.explain(STRANGE)
    scale = model.distance_quantile(FAR) / usual.cluster_distance
    far = load(checkpoint_dir, far_to_universal=True).explain(STRANGE)
    assert far.mean_gates == pytest.approx([scale * gate for gate in usual.mean_gates], rel=1e-5)
    assert far.universal_weight == pytest.approx(1 - scale * (1 - usual.universal_weight), rel=1e-5)
    assert far.expert_share == usual.expert_share


def without_quantiles(checkpoint_dir, folder):
    shutil.copytree(checkpoint_dir, folder)
    path = folder / "clusters" / "config.json"
    config = json.loads(path.read_text())
    del config["fit"]["distance_quantiles"]
    path.write_text(json.dumps(config))
    return folder


def test_a_checkpoint_of_an_earlier_release(checkpoint_dir, tmp_path, capsys):
    folder = without_quantiles(checkpoint_dir, tmp_path / "earlier")
    load(folder, soft_assignment=0.1)
    with pytest.raises(ClusterModelError, match=r"copy the new config.json over the one in its folder clusters"):
        load(folder, far_to_universal=True)
    words = ["generate", "--model", str(folder), "--prompt", "Why?", "--device", "cpu"]
    assert main([*words, "--far-to-universal"]) == 2
    assert "records no distance_quantiles" in capsys.readouterr().err


def test_models_that_cannot(base_dir, encoder_dir, checkpoint_dir, tmp_path):
    plain = tiny.write_checkpoint(tmp_path / "lora", base_dir, encoder_dir, router="none")
    with pytest.raises(RoutingError, match="soft_assignment is for models routed by cluster, and this one is not"):
        load(plain, soft_assignment=0.1)
    with pytest.raises(RoutingError, match="far_to_universal is for models routed by cluster"):
        load(base_dir, far_to_universal=True)
    with pytest.raises(ConfigError, match="soft_assignment is -1"):
        load(checkpoint_dir, soft_assignment=-1)


class Clusters:
    num_clusters = 1


def test_adapters_that_cannot():
    from llava_mocle.adapter import MocleConfig

    options = {"num_clusters": 1, "cluster_dim": 4}
    without = MocleConfig(universal_expert=False, **options)
    with pytest.raises(RoutingError, match="universal expert, which this model lacks"):
        Weighting(far_to_universal=True).check(without, Clusters(), "a/model")
    fixed = MocleConfig(universal_expert=False, gates="fixed", num_experts=1, **options)
    with pytest.raises(RoutingError, match="gates='fixed' has none"):
        Weighting(soft=0.1).check(fixed, Clusters(), "a/model")
    with pytest.raises(RoutingError, match="mixes two clusters, and this model has one"):
        Weighting(soft=0.1).check(without, Clusters(), "a/model")
    Weighting().check(None, None, "a/model")
