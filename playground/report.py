"""The demonstration's report: scores of all sides, clusters, routing, losses, sample answers with their images."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llava_mocle.analysis.loss_curves import plot_loss_curves
from llava_mocle.analysis.report import Baseline, describe_clusters, write_report
from llava_mocle.analysis.run.cluster_heatmap import count_assignments, plot_cluster_heatmap
from llava_mocle.analysis.run.routing import plot_routing
from llava_mocle.data.conversation import IMAGE_TOKEN, written_turns
from llava_mocle.data.rows import read_rows
from llava_mocle.evaluation.answering.file import read_answers
from llava_mocle.model.load import load_model
from llava_mocle.recipe.recipe import load_recipe
from llava_mocle.training.setup.adapter import count_parameters
from playground.demo import CAUTION, OUT, RUNS, SIDES, STAGE_2

SAMPLES_A_DOMAIN = 6
(BASELINE, BASELINE_FOLDER), (OURS, OUR_FOLDER) = SIDES.items()
# What the report calls each side -> the folder of its answers.
FOLDERS = {"before": "before", "baseline": BASELINE_FOLDER, "after": OUR_FOLDER}


def samples(recipe: Any) -> list[dict[str, Any]]:
    """Evenly spaced held-out rows of each domain, with the answers of every side."""
    chosen = []
    for spec in recipe.data.dataset_specs():
        rows = read_rows(spec.eval_data_path)
        answers = {side: _answers(folder, spec.name) for side, folder in FOLDERS.items()}
        for row in rows[:: max(1, len(rows) // SAMPLES_A_DOMAIN)][:SAMPLES_A_DOMAIN]:
            human, model = (turn.text for turn in written_turns(row)[:2])
            after = answers["after"][row["id"]]
            chosen.append(
                {
                    "domain": spec.name,
                    "image": str(Path(spec.image_folder) / row["image"]),
                    "prompt": human.replace(IMAGE_TOKEN, "").strip(),
                    "reference": model,
                    **{side: found[row["id"]]["text"] for side, found in answers.items()},
                    "cluster": after["metadata"].get("cluster_id"),
                }
            )
    return chosen


def _answers(folder: str, domain: str) -> Mapping[Any, Mapping[str, Any]]:
    return {answer["question_id"]: answer for answer in read_answers(OUT / folder / "answers" / f"{domain}.jsonl")}


def main() -> int:
    """Write playground/out/report.html and its figures."""
    recipe = load_recipe(STAGE_2)
    figures = OUT / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    loaded = load_model(RUNS / "mocle", trainable=True)
    counts = count_parameters(loaded.model)
    single = count_parameters(load_model(RUNS / "lora", trainable=True).model)
    clusters = loaded.cluster_model
    assert clusters is not None
    assignments = Path(str(recipe.cluster.cluster_model)) / "assignments.parquet"
    heatmap = plot_cluster_heatmap(count_assignments(assignments), figures / "clusters.png")
    routing = plot_routing(loaded.model.base_model.clean_gates(), figures / "routing.png")
    losses = plot_loss_curves({OURS: RUNS / "mocle", BASELINE: RUNS / "lora"}, figures / "losses.png")
    history = json.loads((RUNS / "mocle" / "trainer_state.json").read_text())["log_history"]
    overturned = [entry["routing/overturned"] for entry in history if "routing/overturned" in entry]
    facts = {
        "parameters": f"{counts['all'] / 1e6:.0f} M",
        "trained": f"{counts['trainable'] / 1e6:.1f} M",
        f"trained, {BASELINE}": f"{single['trainable'] / 1e6:.1f} M",
        f"rank, {BASELINE}": f"{2 * recipe.adapter.lora_r}: what {OURS} activates, 2 x {recipe.adapter.lora_r}",
        "experts a site": f"{recipe.adapter.num_experts} + 1 universal",
        "clusters": clusters.num_clusters,
        "steps": history[-1]["step"],
    }
    if any(overturned):  # nothing is, without noise
        facts["choices overturned by noise"] = (
            f"{100 * overturned[0]:.0f} % at first, {100 * overturned[-1]:.0f} % at the end"
        )
    page = write_report(
        OUT / "report.html",
        title="MoCLE on three small domains",
        subtitle="Real pretrained parts, two training stages, held-out images; made by one command.",
        before=OUT / "before" / "results.json",
        after=OUT / OUR_FOLDER / "results.json",
        name=OURS,
        baseline=Baseline(BASELINE, OUT / BASELINE_FOLDER / "results.json", CAUTION),
        figures=[
            ("Where each domain's instructions fall: the clustering never saw which domain a row is from.", heatmap),
            ("Which experts each cluster uses over all sites, and what is left to the universal expert.", routing),
            ("Training loss, and held-out loss a domain.", losses),
        ],
        samples=samples(recipe),
        facts=facts,
        clusters=describe_clusters(clusters),
    )
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
