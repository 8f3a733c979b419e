"""The experts that rows choose, against gates worked by hand from what the model sees of one row after the other."""

import csv
import json
from collections import defaultdict

import numpy as np
import pytest
import torch

from llava_mocle.adapter.sentence import NO_TOKEN
from llava_mocle.analysis.run.measured_experts import measure_experts
from llava_mocle.analysis.training_point import load_point
from llava_mocle.cli.main import main
from llava_mocle.model.load import load_model


def by_hand(run, point, drawn):
    """(N, S, E): the share of each dataset's tokens, or rows, whose strongest logit is an expert's.

    A row is a batch of its own, so that nothing is padded; the logits are products in float64.
    """
    model = load_model(run).model.eval()
    sites, config = model.base_model.sites, model.peft_config["default"]
    seen, counts = {}, np.zeros((len(drawn), len(sites), config.num_experts))
    for name in sites:
        module = model.get_base_model().get_submodule(name)
        module.register_forward_pre_hook(lambda _module, args, name=name: seen.update({name: args[0]}))
    weights = defaultdict(list)
    for name, value in model.named_parameters():
        if "mocle_gate" in name or "mocle_router" in name:
            weights[name.rpartition(".")[2]].append(value.double())
    collate = point.rows.encoder.collator()
    for dataset, samples in enumerate(drawn):
        for sample in samples:
            batch = collate([point.rows[sample]])
            with torch.no_grad():
                model(**batch)
            for site, name in enumerate(sites):
                if config.router == "token":
                    logits = seen[name][0].double() @ weights["weight"][site].T
                else:
                    ids = batch["instruction_ids"][0]
                    words = model.get_input_embeddings().weight[ids[ids != NO_TOKEN]].double()
                    logits = (words.mean(dim=0) @ weights["gate_weight"][0][site].T)[None]
                for expert in logits.argmax(dim=-1).tolist():
                    counts[dataset, site, expert] += 1
    return counts / counts.sum(axis=-1, keepdims=True)


def test_shares_are_those_of_rows_one_by_one(learned_run):
    point = load_point(learned_run)
    found = measure_experts(point, 9, 2, seed=3)
    assert [(one.name, one.trained, one.rows) for one in found] == [("pictures", True, 9), ("sums", True, 9)]
    expected = by_hand(learned_run, point, point.draw(9, 3))
    # Equal but where two logits of a token tie within rounding: one token of some hundreds.
    assert np.stack([one.shares for one in found]) == pytest.approx(expected, abs=2e-3)
    assert np.abs(expected[0] - expected[1]).max() > 0.05


def test_the_figure_with_held_out_rows(learned_run, mix, tmp_path, capsys):
    rows = f"new={mix[0]['eval_data_path']}"
    words = ["analyze", "experts", learned_run, "--output", tmp_path, "--rows", "6", "--held-out", rows]
    assert main([*map(str, words), "--image-folder", mix[0]["image_folder"], "--logging_steps", "2"]) == 0
    with open(tmp_path / "experts.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["dataset"]: (line["trained"], line["rows"]) for line in lines} == {
        "pictures": ("1", "6"), "sums": ("1", "6"), "new": ("0", "5"),
    }  # fmt: skip
    assert len(lines) == 3 * 5 * 3  # datasets, sites and their mean, experts
    assert {path.suffix for path in tmp_path.iterdir()} == {".png", ".svg", ".csv", ".txt"}
    caption = (tmp_path / "experts.txt").read_text()
    router = json.loads((learned_run / "adapter_config.json").read_text())["router"]
    counted = {"token": "tokens in up to 6 rows drawn by chance", "sentence": "rows (up to 6, drawn by chance)"}
    assert f"which share of a dataset's {counted[router]}" in caption
    assert "Below the dotted line: held-out datasets" in caption
    assert caption.strip() in capsys.readouterr().out


def test_what_such_a_run_lacks(learned_run, tmp_path, capsys):
    router = json.loads((learned_run / "adapter_config.json").read_text())["router"]
    assert main(["analyze", "all", str(learned_run), "--output", str(tmp_path / "all")]) == 0
    left_out = dict(line.split(": left out: ") for line in capsys.readouterr().out.splitlines() if "left out" in line)
    assert set(left_out) == {"tsne", "clusters", "experts", "universal", "examples", "routing", "gates"}
    assert f"`llava-mocle analyze experts {learned_run}` does it" in left_out["experts"]
    assert f"its router is {router!r}, which looks at no cluster" in left_out["universal"]
    (tmp_path / "eval" / "answers").mkdir(parents=True)
    words = ["analyze", "experts", str(learned_run), "--output", str(tmp_path / "one")]
    for more, message in (
        (["--held-out", str(tmp_path / "eval")], f"is a folder of answers, but router {router!r} has to see the rows"),
        (["--held-out", str(tmp_path / "none.json")], "no such file of rows"),
        (["--rows", "0"], "--rows is 0, expected at least 1"),
        (["--site", "nowhere"], "--site nowhere: no site is named so"),
    ):
        assert main([*words, *more]) == 2
        assert message in capsys.readouterr().err
