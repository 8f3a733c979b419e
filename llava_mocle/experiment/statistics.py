"""How far means over seeds and questions, their differences and the share of a gap could be off.

A score is the mean over S seeds and Q questions of a table of 0 and 1 (or of numbers between), for each domain. Another
experiment would have drawn other questions and other seeds, so both are drawn again, 4000 times, and the 95 % interval
is from the 2.5th to the 97.5th percentile. A draw is the observed mean plus two deviations:

- Of the questions: Q of Q with replacement, within each domain, and the same ones for every method and every seed. So a
  difference of two methods is paired by question (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
- Of the seeds: S - 1 of S with replacement, for each method on its own, and the same ones in every domain. S of S would
  give a variance that is too small by the factor (S - 1) / S, which is 2/3 for three seeds (Rao and Wu, "Resampling
  inference with complex survey data", JASA 83, 1988).

The two are added, not nested: drawing questions within drawn seeds would count the chance of single answers three times
(Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007); added, it counts twice, which errs on the safe
side. A few seeds do not tell their own spread well either. So in each draw the seeds' deviation is multiplied by
sqrt(v / chi2(v)), where chi2(v) is a random number of the chi-squared distribution and v the sum of S - 1 over the
methods that are compared: its tails become those of Student's t with v degrees of freedom, as in a two-sample t-test.

With one seed a method, only questions are drawn. The interval then says nothing of what another seed would give.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 4000
SEED = 0  # fixed, so that the same scores always get the same interval
_BOUNDS = (2.5, 97.5)
# Draws at a time: questions times draws are held in memory.
_BLOCK = 500
# Method -> its mean, observed or in every draw.
Mean = Callable[[str], np.ndarray]


@dataclass(frozen=True)
class Table:
    """The scores of one method on one split.

    Attributes:
        seeds: in the order of the rows.
        items: domain -> (seeds, questions) scores from 0 to 1.
    """

    seeds: tuple[int, ...]
    items: Mapping[str, np.ndarray]

    def means(self) -> dict[str, np.ndarray]:
        """Domain -> (seeds,) the score of each seed."""
        return {domain: table.mean(axis=1) for domain, table in self.items.items()}


@dataclass(frozen=True)
class Estimate:
    """A number, and the 95 % interval of it; the interval is None where nothing could be drawn again."""

    value: float
    interval: tuple[float, float] | None = None

    @property
    def above_0(self) -> bool:
        return self.interval is not None and self.interval[0] > 0

    @property
    def below_0(self) -> bool:
        return self.interval is not None and self.interval[1] < 0


class Resampled:
    """All methods' scores in `draws` experiments that could have been.

    Example:
        `Resampled(tables).difference("mocle", "lora")` is the Estimate of the difference, averaged over domains.
    """

    def __init__(self, tables: Mapping[str, Table], draws: int = DRAWS) -> None:
        self.tables = tables
        self.domains = tuple(dict.fromkeys(domain for table in tables.values() for domain in table.items))
        # Method -> domain -> (draws,) what a draw of questions, and of seeds, is off the observed mean.
        self._by_questions: dict[str, dict[str, np.ndarray]] = {name: {} for name in tables}
        self._by_seeds: dict[str, dict[str, np.ndarray]] = {name: {} for name in tables}
        for domain in self.domains:
            present = {name: table.items[domain] for name, table in tables.items() if domain in table.items}
            of_questions = np.stack([items.mean(axis=0) for items in present.values()], axis=1)
            drawn = _drawn_means(of_questions, draws, _generator(f"questions of {domain}"))
            for (name, items), means in zip(present.items(), drawn.T, strict=True):
                self._by_questions[name][domain] = means - items.mean()
        for name, table in tables.items():
            weights = _seed_weights(len(table.seeds), draws, _generator(f"seeds of {name}"))
            for domain, items in table.items.items():
                self._by_seeds[name][domain] = weights @ items.mean(axis=1) - items.mean()
        self._draws = draws

    def score(self, method: str, domain: str | None = None) -> Estimate:
        """The score of a method in a domain; None: the mean of the domains.

        It lies between 0 and 1, and its interval is cut there.
        """
        found = self._estimate(lambda mean: mean(method), (method,), domain)
        if found.interval is None:
            return found
        low, high = found.interval
        return Estimate(found.value, (max(low, 0.0), min(high, 1.0)))

    def difference(self, method: str, other: str, domain: str | None = None) -> Estimate:
        """The score of `method` minus that of `other`."""
        return self._estimate(lambda mean: mean(method) - mean(other), (method, other), domain)

    def share(self, method: str, low: str, high: str, domain: str | None = None) -> Estimate:
        """(method - low) / (high - low): 0 where `method` is as good as `low`, and 1 where as good as `high`.

        It means something only where the gap between `low` and `high` is surely not 0.
        """

        def share(mean: Mean) -> np.ndarray:
            with np.errstate(divide="ignore", invalid="ignore"):
                found: np.ndarray = (mean(method) - mean(low)) / (mean(high) - mean(low))
            return found

        return self._estimate(share, (method, low, high), domain)

    def _estimate(
        self, statistic: Callable[[Mean], np.ndarray], methods: Sequence[str], domain: str | None
    ) -> Estimate:
        """A statistic of the methods' means, as observed and in every draw."""
        domains = self.domains if domain is None else (domain,)
        observed = {name: np.mean([self.tables[name].items[one].mean() for one in domains]) for name in methods}
        tails = _tails(sum(len(self.tables[name].seeds) - 1 for name in set(methods)), self._draws)

        def drawn(name: str) -> np.ndarray:
            by_questions = np.mean([self._by_questions[name][one] for one in domains], axis=0)
            by_seeds = np.mean([self._by_seeds[name][one] for one in domains], axis=0)
            means: np.ndarray = observed[name] + by_questions + tails * by_seeds
            return means

        value = float(statistic(lambda name: np.asarray(observed[name])))
        values = statistic(drawn)
        values = values[np.isfinite(values)]
        if not len(values):
            return Estimate(value)
        low, high = np.percentile(values, _BOUNDS)
        return Estimate(value, (float(low), float(high)))


def _drawn_means(values: np.ndarray, draws: int, generator: np.random.Generator) -> np.ndarray:
    """(draws, methods): the means of questions drawn with replacement, the same ones for all methods.

    Args:
        values: (questions, methods).
    """
    count = len(values)
    parts = []
    for begin in range(0, draws, _BLOCK):
        drawn = generator.multinomial(count, np.full(count, 1 / count), size=min(_BLOCK, draws - begin))
        parts.append(drawn @ values / count)
    return np.concatenate(parts)


def _tails(free: int, draws: int) -> np.ndarray:
    """(draws,) factors that give a normal deviation the tails of Student's t with `free` degrees of freedom."""
    if free == 0:
        return np.ones(draws)
    factors: np.ndarray = np.sqrt(free / _generator("tails").chisquare(free, size=draws))
    return factors


def _seed_weights(seeds: int, draws: int, generator: np.random.Generator) -> np.ndarray:
    """(draws, seeds): what each seed counts in each draw; they sum to 1."""
    if seeds == 1:
        return np.ones((draws, 1))
    drawn: np.ndarray = generator.multinomial(seeds - 1, np.full(seeds, 1 / seeds), size=draws) / (seeds - 1)
    return drawn


def _generator(purpose: str) -> np.random.Generator:
    """Numbers that depend on what they are for alone, so that a further method leaves the others' intervals alone."""
    return np.random.default_rng([SEED, zlib.crc32(purpose.encode())])


def spread(values: Sequence[float]) -> float | None:
    """The standard deviation over seeds, with S - 1 in the denominator; None of one seed."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
