"""The result of a comparison as one JSON value: what every table, figure and sentence of the report is made of."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from llava_mocle.evaluation.scores.provenance import command, versions
from llava_mocle.evaluation.tasks.held_out import HeldOutRows
from llava_mocle.experiment.fairness import experts_of
from llava_mocle.experiment.folder import RunFolder, State
from llava_mocle.experiment.grid import Entry, Grid, Variant
from llava_mocle.experiment.methods import BASELINE, SINGLE_DOMAIN
from llava_mocle.experiment.scores import Search, table_of
from llava_mocle.experiment.statistics import DRAWS, Estimate, Resampled, Table, spread
from llava_mocle.experiment.verdict import verdicts
from llava_mocle.recipe.recipe import recipe_of

KIND = "comparison"
MEAN = "mean"  # in the place of a domain: the mean of all


def compare(
    grid: Grid, folders: Mapping[Entry, RunFolder], searches: Mapping[str, Search], missing: Sequence[str]
) -> dict[str, Any]:
    """Everything that the finished runs say.

    Args:
        folders: of every place of the grid, as far as it is known.
        searches: of the learning rates; empty without a search.
        missing: names of the runs that are not done.

    Returns:
        `kind`, `metric`, `domains`, `baseline`, `single_domain`, `fairness`, `draws`, `methods` (name -> what it is and
        what it took), `splits` (name -> `n`, `scores`, `differences`, `shares`, `verdicts`, `ablations`), `searches`,
        `missing` (runs that are not done), `versions`, `command`. Scores are shares from 0 to 1; every interval is one
        of 95 %, or null.
    """
    methods = [variant for variant in grid.variants if variant.ablation is None]
    return {
        "kind": KIND,
        "metric": HeldOutRows.metric,
        "recipe": grid.design.recipe,
        "domains": list(grid.specs),
        "baseline": BASELINE,
        "single_domain": SINGLE_DOMAIN,
        "fairness": grid.design.fairness,
        "single_domain_steps": grid.design.single_domain_steps,
        "samples": grid.shares,
        "draws": DRAWS,
        "methods": {variant.name: _about(variant, folders) for variant in grid.variants},
        "splits": {split: _split(grid, methods, folders, split) for split in grid.splits},
        "searches": {
            name: {"tried": [[rate, score] for rate, score in found.tried.items()], "chosen": found.chosen}
            for name, found in searches.items()
        },
        "missing": list(missing),
        "versions": versions(),
        "command": command(),
    }


def _about(variant: Variant, folders: Mapping[Entry, RunFolder]) -> dict[str, Any]:
    """What a method is, and what its finished runs took, on average over seeds; of single domains: all of them summed.

    `activated` is the number of trained values that a token passes through; what is trained beside the experts
    (router, projector) counts whole.
    """
    own = {entry: folder for entry, folder in folders.items() if entry.variant == variant}
    facts: dict[str, Any] = {
        "about": variant.method.about,
        "keys": dict(variant.keys),
        "per_domain": variant.method.per_domain,
        "ablation": variant.ablation,
        "label": variant.label,
        "runs": {},
    }
    if not own:
        return facts
    recipe = recipe_of(next(iter(own.values())).run.recipe)
    experts = experts_of(recipe.adapter)
    facts |= {
        "rank": recipe.adapter.lora_r,
        "experts": asdict(experts),
        "learning_rate": recipe.trainer["learning_rate"],
    }
    facts["runs"] = {
        f"{entry.seed}" + (f", {entry.domain}" if entry.domain else ""): folder.run.name
        for entry, folder in own.items()
    }
    done = {entry: folder.done() for entry, folder in own.items() if folder.state() == State.DONE}
    if not done:
        return facts
    by_seed: dict[int, list[Mapping[str, Any]]] = {}
    for entry, record in done.items():
        by_seed.setdefault(entry.seed, []).append(record or {})
    seeds = len(by_seed)
    records = [record for part in by_seed.values() for record in part]
    counts = records[0]["parameters"]
    beside = counts["router"] + counts["projector"]
    facts |= {
        "trainable": sum(sum(record["parameters"].values()) for record in records) // seeds,
        "experts_trainable": sum(record["parameters"]["experts"] for record in records) // seeds,
        "activated": counts["experts"] * experts.activated // experts.total + beside,
        "experts_activated": counts["experts"] * experts.activated // experts.total,
        "train_seconds": sum(record["seconds"].get("train", 0.0) for record in records) / seeds,
        "eval_seconds": sum(record["seconds"].get("eval", 0.0) for record in records) / seeds,
        "peak_mib": max(record["peak_mib"].get("train", 0.0) for record in records),
    }
    return facts


def _split(grid: Grid, methods: Sequence[Variant], folders: Mapping[Entry, RunFolder], split: str) -> dict[str, Any]:
    digests: dict[str, str] = {}
    tables = {
        variant.name: table
        for variant in grid.variants
        if (table := table_of(grid, variant, folders, split, digests)) is not None
    }
    names = [variant.name for variant in methods if variant.name in tables]
    compared = Resampled({name: tables[name] for name in names})
    counts = {domain: table.shape[1] for one in tables.values() for domain, table in one.items.items()}
    found: dict[str, Any] = {
        "n": {domain: counts[domain] for domain in grid.specs if domain in counts},
        "scores": {name: _scores(compared, name, tables[name]) for name in names},
        "differences": _differences(compared, names),
        "shares": _shares(compared, names),
        "verdicts": [asdict(answer) for answer in verdicts(compared)],
        "ablations": {},
    }
    for variant in grid.variants:
        if variant.ablation is not None and variant.name in tables:
            table = tables[variant.name]
            scores = _scores(Resampled({variant.name: table}), variant.name, table)
            found["ablations"].setdefault(variant.ablation, []).append({"label": variant.label} | scores)
    return found


def _scores(drawn: Resampled, name: str, table: Table) -> dict[str, Any]:
    """`seeds`, and domain (or MEAN) -> mean, s.d. over seeds, interval, and the score of each seed."""
    by_seed = {domain: means.tolist() for domain, means in table.means().items()}
    by_seed[MEAN] = [sum(part) / len(part) for part in zip(*by_seed.values(), strict=True)]
    of = {
        domain: _estimate(drawn.score(name, None if domain == MEAN else domain))
        | {"sd": spread(values), "by_seed": values}
        for domain, values in by_seed.items()
    }
    return {"seeds": list(table.seeds), "domains": of}


def _differences(drawn: Resampled, names: Sequence[str]) -> dict[str, Any]:
    """Other method -> method -> domain (or MEAN) -> the difference."""
    return {
        other: {
            name: {
                domain or MEAN: _estimate(drawn.difference(name, other, domain)) for domain in (None, *drawn.domains)
            }
            for name in names
            if name != other
        }
        for other in (BASELINE, SINGLE_DOMAIN)
        if other in names
    }


def _shares(drawn: Resampled, names: Sequence[str]) -> dict[str, Any]:
    """Domain (or MEAN) -> the gap, and method -> the share of it; {} of a gap that is not surely above 0."""
    if not {BASELINE, SINGLE_DOMAIN} <= set(names):
        return {}
    found = {}
    for domain in (None, *drawn.domains):
        gap = drawn.difference(SINGLE_DOMAIN, BASELINE, domain)
        others = [name for name in names if name not in (BASELINE, SINGLE_DOMAIN)] if gap.above_0 else []
        of = {name: _estimate(drawn.share(name, BASELINE, SINGLE_DOMAIN, domain)) for name in others}
        found[domain or MEAN] = {"gap": _estimate(gap), "of": of}
    return found


def _estimate(estimate: Estimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": list(estimate.interval) if estimate.interval else None}
