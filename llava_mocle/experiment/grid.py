"""The grid of a comparison: every run with the recipe it trains, made from the declaration before anything runs."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llava_mocle.data.mixture import DatasetSpec, Mixture
from llava_mocle.data.rows import read_rows
from llava_mocle.errors import ConfigError
from llava_mocle.experiment.design import Design, seed_list
from llava_mocle.experiment.fairness import Measure, alpha_of, experts_of, rank_of, share_of_steps, shares_of
from llava_mocle.experiment.methods import OURS, STANDARD, Method
from llava_mocle.io.files import write_text
from llava_mocle.recipe.recipe import Recipe, load_recipe, read_yaml, recipe_of
from llava_mocle.recipe.router_options import check_router_options
from llava_mocle.recipe.trainer_keys import policies, unused_keys
from llava_mocle.training.setup.clusters import needs_clusters

VALIDATION, TEST, HELD_OUT = "validation", "test", "held_out"


@dataclass(frozen=True)
class Variant:
    """A method, or a method with one thing changed, as the runs of it share it.

    Attributes:
        name: of its folder; of an ablation's: "ablation=label".
        keys: the recipe keys that it sets, rank and scaling among them.
        seeds: of its runs.
        rate_of: the method whose learning rate it takes.
        ablation, label: what is changed and how; None: it is a method.
    """

    name: str
    method: Method
    keys: Mapping[str, Any] = field(hash=False)
    seeds: tuple[int, ...]
    rate_of: str
    ablation: str | None = None
    label: str | None = None


@dataclass(frozen=True)
class Entry:
    """A place in the grid.

    Attributes:
        domain: the only one that it trains on; None: all.
        rate: the learning rate that the search tries here; None: the recipe's, or the chosen one.
    """

    variant: Variant
    seed: int
    domain: str | None
    rate: float | None = None

    def named(self, rate: float | None) -> str:
        """The name of a run here, with a learning rate in it where the search tries several."""
        words = [f"seed{self.seed}"]
        words += [self.domain] if self.domain else []
        words += [f"lr{rate:g}"] if rate is not None else []
        return f"{self.variant.name}/{'-'.join(words)}"


@dataclass(frozen=True)
class Run:
    """What fills one or several places of the grid: a training, and the splits that are asked afterwards.

    Attributes:
        name: its folder below the experiment's `runs`.
        recipe: the keys of the recipe that it trains; `cluster_model` and `output_dir` are relative to the experiment.
        datasets: of the domains that it trains on and is asked about.
        clusters: the name of its cluster model, with the recipe keys that make it; None: it has none.
        splits: those that are asked.
        content: all that decides what is trained and asked, with the defaults of what the recipe leaves out, as text.
    """

    name: str
    recipe: Mapping[str, Any]
    datasets: tuple[DatasetSpec, ...]
    clusters: str | None
    splits: tuple[str, ...]
    content: str


class Grid:
    """All runs of a comparison.

    Attributes:
        root: the experiment's folder.
        specs: domain -> the dataset of the recipe.
        variants: the methods, then the ablations.
        splits: what every run of the report is asked: validation, and test and held_out where there are rows.
        shares: each domain's share in the samples of an all-domain run.

    Raises:
        ConfigError: a domain is no dataset of the recipe, has no held-out rows, or a method's keys do not fit.
    """

    def __init__(self, design: Design) -> None:
        self.design = design
        self.root = Path(design.output_dir)
        self.values = read_yaml(design.recipe)
        self.recipe = load_recipe(design.recipe)
        if self.recipe.stage.stage != "finetune":
            raise ConfigError(
                f"{design.recipe}: stage is {self.recipe.stage.stage!r}; a comparison is of stage finetune"
            )
        self._made: dict[tuple[Entry, float], Run] = {}
        self.specs = self._domains()
        rows = {name: read_rows(spec.data_path) for name, spec in self.specs.items()}
        mixture = Mixture(list(self.specs.values()), rows)
        rates = dict(zip(rows, mixture.rates().tolist(), strict=True))
        self.shares = shares_of({name: len(part) for name, part in rows.items()}, rates)
        self.splits = (VALIDATION, *(split for split in (TEST, HELD_OUT) if getattr(design, split)))
        self._check_splits()
        self.variants = [self._variant(method) for method in design.standard_and_own()]
        self.variants += [
            self._ablated(name, label, keys)
            for name in design.ablations or {}
            for label, keys in design.variants_of(name).items()
        ]
        for entry in self.search() + self.entries():
            self.run(entry, entry.rate or self.recipe.trainer["learning_rate"])  # raises where keys do not fit

    def search(self) -> list[Entry]:
        """The runs that choose each method's learning rate; none where there is one rate."""
        rates = self.design.learning_rates or []
        if len(rates) < 2:
            return []
        return [
            Entry(variant, variant.seeds[0], domain, rate)
            for variant in self.variants
            if variant.ablation is None
            for rate in rates
            for domain in self._domains_of(variant)
        ]

    def entries(self) -> list[Entry]:
        """The places of the report, in the order in which they are worked through: first every method's first seed."""
        found = [
            (position, Entry(variant, seed, domain))
            for variant in self.variants
            for position, seed in enumerate(variant.seeds)
            for domain in self._domains_of(variant)
        ]
        return [entry for _, entry in sorted(found, key=lambda pair: (pair[1].variant.ablation is not None, pair[0]))]

    def run(self, entry: Entry, rate: float) -> Run:
        """The run of a place, at a learning rate.

        Raises:
            ConfigError: the recipe that comes out is not one.
        """
        if (entry, rate) not in self._made:
            self._made[entry, rate] = self._run(entry, rate)
        return self._made[entry, rate]

    def _run(self, entry: Entry, rate: float) -> Run:
        variant = entry.variant
        values = self._values(variant.keys) | {"seed": entry.seed, "learning_rate": rate}
        specs = tuple(spec for name, spec in self.specs.items() if entry.domain in (None, name))
        own = {spec.name for spec in specs}
        for key in ("data_path", "image_folder", "eval_data_path", "cluster_model", "cluster_assignments"):
            values.pop(key, None)
        values["datasets"] = [item for item in self.recipe.data.entries() if item["name"] in own]
        if entry.domain is not None and self.design.single_domain_steps == "share":
            values |= self._shorter(self.shares[entry.domain])
        name = entry.named(rate if self._is_searched(entry) else None)
        values["output_dir"] = f"runs/{name}/train"
        recipe = self._checked(values, variant.name)
        clusters = None
        if needs_clusters(recipe):
            clusters = self._clusters_of(recipe)
            values["cluster_model"] = f"clusters/{clusters}"
        splits = (VALIDATION,) if entry.rate is not None else self.splits
        resolved = recipe.as_dict() | {"output_dir": None, "cluster_model": clusters}
        content = json.dumps([resolved, splits], sort_keys=True, default=str)
        return Run(name, values, specs, clusters, splits, content)

    def runs(self, entries: Iterable[Entry], rates: Mapping[str, float | None]) -> dict[Entry, Run]:
        """The run of every place. Places whose recipes are the same share the run of the first.

        Args:
            rates: method -> its learning rate; None: the recipe's.
        """
        made: dict[str, Run] = {}
        found = {}
        for entry in entries:
            rate = entry.rate or rates.get(entry.variant.rate_of) or self._only_rate()
            run = self.run(entry, rate)
            found[entry] = made.setdefault(run.content, run)
        return found

    def _values(self, keys: Mapping[str, Any]) -> dict[str, Any]:
        """The shared recipe with a method's keys in it, without what the method's kind of adapter does not take."""
        unused = unused_keys(keys.get("adapter", self.recipe.adapter.adapter))
        shared = {key: value for key, value in self.values.items() if key not in unused}
        return shared | dict(keys)

    def _only_rate(self) -> float:
        rates = self.design.learning_rates or []
        return float(rates[0] if len(rates) == 1 else self.recipe.trainer["learning_rate"])

    def rows_of(self, split: str, domain: str) -> str | None:
        """The file that a split of a domain is read from; None: there is none."""
        if split == VALIDATION:
            return self.specs[domain].eval_data_path
        files: dict[str, str] = getattr(self.design, split) or {}
        return files.get(domain)

    def _is_searched(self, entry: Entry) -> bool:
        """Whether the search has a run for this place, so that the run's name says its rate."""
        several = len(self.design.learning_rates or []) > 1
        return several and entry.variant.ablation is None and entry.seed == entry.variant.seeds[0]

    def _domains_of(self, variant: Variant) -> list[str] | list[None]:
        return list(self.specs) if variant.method.per_domain else [None]

    def _domains(self) -> dict[str, DatasetSpec]:
        found = {spec.name: spec for spec in self.recipe.data.dataset_specs()}
        chosen = self.design.domains or list(found)
        for name in chosen:
            if name not in found:
                raise ConfigError(
                    f"domains names {name!r}, which is no dataset of {self.design.recipe}; it has {', '.join(found)}"
                )
            if not found[name].eval_data_path:
                raise ConfigError(
                    f"{self.design.recipe}: dataset {name!r} has no eval_data_path; every domain needs validation rows"
                )
        if len(chosen) < 2:
            raise ConfigError(f"{self.design.recipe}: a comparison needs two domains or more, and there is {chosen}")
        return {name: found[name] for name in chosen}

    def _check_splits(self) -> None:
        for split in self.splits[1:]:
            files = getattr(self.design, split)
            for name in files:
                if name not in self.specs:
                    raise ConfigError(f"{split} names {name!r}; the domains are {', '.join(self.specs)}")
            missing = [name for name in self.specs if name not in files]
            if missing and split == TEST:
                raise ConfigError(
                    f"{split} has no rows of {', '.join(missing)}; give every domain's, or no test at all"
                )

    def _variant(self, method: Method) -> Variant:
        adapter = self._checked(self._values(method.keys), method.name).adapter
        keys = dict(method.keys)
        if "lora_r" not in keys:
            measure = Measure(self.recipe.adapter.lora_r, self.recipe.adapter.num_experts)
            rank = rank_of(method, experts_of(adapter), measure, self.design.fairness, len(self.specs))
            keys |= {"lora_r": rank, "lora_alpha": alpha_of(rank, self.recipe.adapter)}
        return Variant(method.name, method, keys, tuple(self.design.seeds_of(method.name)), rate_of=method.name)

    def _ablated(self, ablation: str, label: str, changed: Mapping[str, Any]) -> Variant:
        base = next(variant for variant in self.variants if variant.name == OURS)
        keys = dict(base.keys) | dict(changed)
        if "lora_r" in changed and "lora_alpha" not in changed:
            keys["lora_alpha"] = alpha_of(int(changed["lora_r"]), self.recipe.adapter)
        seeds = tuple(seed_list(self.design.ablation_seeds))
        return Variant(f"{ablation}={label}", STANDARD[OURS], keys, seeds, OURS, ablation, label)

    def _shorter(self, share: float) -> dict[str, Any]:
        """The keys that count steps, for a share of the samples. Epochs get shorter by themselves."""
        steps, warm_up = self.recipe.trainer["max_steps"], self.recipe.trainer["warmup_steps"]
        if steps < 1:
            return {}
        keys: dict[str, Any] = {"max_steps": share_of_steps(steps, share)}
        return keys | ({"warmup_steps": share_of_steps(warm_up, share)} if warm_up >= 1 else {})

    def _checked(self, values: Mapping[str, Any], name: str) -> Recipe:
        recipe = recipe_of(values, f"method {name}")
        try:
            check_router_options(recipe)
        except ConfigError as error:
            raise ConfigError(f"method {name}: {error}") from error
        return recipe

    def _clusters_of(self, recipe: Recipe) -> str:
        """The name of a recipe's cluster model: its K, and what else differs from the shared recipe."""
        found, usual = recipe.cluster, self.recipe.cluster
        made_by = [key for key, policy in policies().items() if policy.clustering]
        words = [f"k{found.num_clusters}"]
        for key in made_by:
            value = getattr(found, key)
            if key != "num_clusters" and value != getattr(usual, key):
                words.append(f"{key}-{Path(str(value)).name}")
        return "_".join(words)


def write_yaml(path: Path, values: Mapping[str, Any]) -> None:
    """Write a recipe's keys into a file."""
    write_text(path, yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))
