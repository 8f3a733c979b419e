"""Results of made-up runs, in the shape of `results.json`."""

from typing import Any


def run(prompts: str = "llava", **tasks: dict[str, Any]) -> dict[str, Any]:
    asked = {name: entry | {"settings": {"prompts": prompts} | entry["settings"]} for name, entry in tasks.items()}
    return {"kind": "benchmarks", "model_id": "m@1", "tasks": asked}


def entry(n: int = 4, headline: str = "", judge: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """A task's entry: what is no metric has a default here; the first metric is the headline unless told otherwise."""
    own = {"title": "T", "split": "s", "limit": None, "unparsed": 0, "official_n": None, "items_digest": "d1"}
    own |= {"scorer": "", "unparsed_as": "wrong"}
    metrics = {name: value for name, value in more.items() if name not in own}
    fixed = own | {name: value for name, value in more.items() if name in own}
    return fixed | {
        "n": n,
        "headline": headline or next(iter(metrics)),
        "settings": {"judge": judge},
        "metrics": metrics,
    }


def metric(value: float, low: float, high: float, items: str | None = None, n: int = 4) -> dict[str, Any]:
    return {"value": value, "interval": [low, high], "n": n, "items": items}
