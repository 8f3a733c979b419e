"""One self-contained HTML page: what a run learned, on what, and how it answers."""

import io
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llava_mocle.analysis.pages import data_uri, render_page, verdict
from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.data.images import load_image
from llava_mocle.errors import DataError
from llava_mocle.evaluation.metrics.normalize import exact_match
from llava_mocle.evaluation.scores.results import HELD_OUT_KIND, read_results
from llava_mocle.evaluation.scores.statistics import paired_difference_interval
from llava_mocle.io.files import write_text

if TYPE_CHECKING:
    from llava_mocle.clustering import ClusterModel

Results = Mapping[str, Any]
_THUMBNAIL_PIXELS = 360

_PAGE = """{% extends "frame" %}
{% from "cells" import number %}

{% macro score(summary, detail="") -%}
{% if not summary or summary.score is none %}{{ number("–") }}
{%- else %}{{ number(percent(summary.score), detail or between(percent, summary.interval)) }}{% endif %}
{%- endmacro %}

{% macro bar(score, mark, kind="") -%}
<div class="bar"><i class="{{ kind }}" style="width:{{ percent(score) }}%"></i>
{%- if mark %}<b style="left:{{ percent(mark.score) }}%"></b>{% endif %}</div>
{%- endmacro %}

{% macro difference(first, second) -%}
{% set value, ends = score_difference(first, second) -%}
{{ number("–" if value is none else signed(value), between(signed, ends), verdict(ends)) }}
{%- endmacro %}

{% macro answer(text, reference) -%}
{% if not text.strip() %}<span class="down">(empty)</span>
{%- elif exact_match(text, reference) %}<span class="mark up" title="right">✓</span>{{ text }}
{%- else %}<span class="mark down" title="wrong">✗</span>{{ text }}{% endif %}
{%- endmacro %}

{% block body %}
{% if subtitle %}
<p class="lead">{{ subtitle }}</p>
{% endif %}
{% if facts %}
<dl class="facts">
{% for name, value in facts.items() %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
{% endif %}

<section><h2>Held-out scores</h2>
<div class="card"><table><thead><tr><th>domain</th><th class="num">n</th><th class="num">majority</th>
<th class="num">question prior</th>{% if before %}<th class="num">before</th>{% endif %}
{% if baseline %}<th class="num">{{ baseline.name }}</th>{% endif %}<th class="num">{{ name }}</th>
{% if before %}<th class="num">{{ name }} − before</th>{% endif %}
{% if baseline %}<th class="num">{{ name }} − {{ baseline.name }}</th>{% endif %}<th>0 to 100</th></tr></thead><tbody>
{% for domain, second in after.domains.items() %}
{% set first = before.domains.get(domain, {}) if before else {} %}
{% set other = baseline.results.domains.get(domain, {}) if baseline else {} %}
{% set majority = second.majority %}
<tr><td>{{ domain }}</td><td class="num">{{ "{:,}".format(second.n) }}</td>
{{ score(majority, "“" ~ majority.answer ~ "”" if majority else "") }}{{ score(second.question_prior) }}
{% if before %}{{ score(first) }}{% endif %}{% if baseline %}{{ score(other) }}{% endif %}{{ score(second) }}
{% if before %}{{ difference(first, second) }}{% endif %}
{% if baseline %}{{ difference(other, second) }}{% endif %}
<td class="bars" aria-hidden="true">
{%- if first.score is number %}{{ bar(first.score, majority, "before") }}{% endif %}
{%- if other.score is number %}{{ bar(other.score, majority, "baseline") }}{% endif %}
{%- if second.score is number %}{{ bar(second.score, majority) }}{% endif %}</td></tr>
{% endfor %}
</tbody></table></div>
<p class="note key">{% if before %}<i class="k-before"></i>before{% endif %}
{% if baseline %}<i class="k-baseline"></i>{{ baseline.name }}{% endif %}
<i class="k-after"></i>{{ name }}<i class="k-majority"></i>majority</p>
<p class="note">Held-out {{ after.metric or "score" }}, in percent; below each score its 95 % bootstrap interval (of the
difference: paired by question). Majority: the most frequent training answer, given to every question. Question prior:
the most frequent training answer to the same question text, without looking. Empty answers after training:
{{ after.domains.values() | map(attribute="unparsed", default=0) | sum }}.</p>
{% if baseline and baseline.note %}
<p class="note">{{ baseline.note }}</p>
{% endif %}
</section>

{% if clusters %}
<section><h2>Clusters</h2>
<div class="card"><table><thead><tr><th>cluster</th><th class="num">training rows</th><th class="num">held-out rows</th>
<th class="num">score</th><th>instructions nearest the centre</th></tr></thead><tbody>
{% for entry in clusters %}
{% set scored = (after.clusters or {}).get(entry.cluster | string, {}) %}
<tr><td>{{ entry.cluster }}</td><td class="num">{{ "{:,}".format(entry.size) }}</td>
<td class="num">{{ "{:,}".format(scored.n or 0) }}</td>{{ score(scored) }}
<td><ul class="plain">{% for text in entry.nearest %}<li>{{ text }}</li>{% endfor %}</ul></td></tr>
{% endfor %}
</tbody></table></div></section>
{% endif %}

{% if figures %}
<section><h2>Figures</h2>
{% for caption, picture in figures %}
<figure class="card"><img alt="{{ caption }}" src="{{ picture }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
</section>
{% endif %}

{% if samples %}
<section><h2>Sample answers</h2>
{% for domain, entries in samples.items() %}
<h3>{{ domain }}</h3><div class="samples">
{% for entry in entries %}
<article class="sample"><div class="pictures">
{%- for picture in pictures(entry) %}<img alt="" loading="lazy" src="{{ picture }}">{% endfor %}</div>
<div class="body"><div class="question">{{ entry.prompt.replace(image_token, " ").strip() }}</div>
<dl><dt>reference</dt><dd>{{ entry.reference }}</dd>
{% for side, label in sides if entry.get(side) is not none %}
<dt>{{ label }}</dt><dd>{{ answer(entry[side], entry.reference) }}</dd>
{% endfor %}
</dl>
{% if entry.get("cluster") is not none %}
<span class="tag">cluster {{ entry.cluster }}</span>
{% endif %}
</div></article>
{% endfor %}
</div>
{% endfor %}
</section>
{% endif %}

<section><h2>How it was made</h2>
<div class="card"><table><thead><tr><th></th><th>model</th><th>command</th></tr></thead><tbody>
{% for label, run in runs if run %}
<tr><td>{{ label }}</td><td>{{ run.model_id }}</td><td><code>{{ run.command }}</code></td></tr>
{% endfor %}
</tbody></table></div></section>
<footer>
{%- for library, version in (after.versions or {}).items() %}{{ library }} {{ version }}{{ ", " if not loop.last }}
{%- endfor %}</footer>
{% endblock %}
"""


@dataclass(frozen=True)
class Baseline:
    """A run that the reported one is compared with, question by question.

    Attributes:
        name: for people.
        results: what `evaluate_rows` returned, or the path of a `results.json`.
        note: what a reader has to know of the comparison.
    """

    name: str
    results: Results | str | os.PathLike[str]
    note: str = ""


def write_report(
    out_html: str | os.PathLike[str],
    *,
    title: str,
    before: Results | str | os.PathLike[str] | None,
    after: Results | str | os.PathLike[str],
    name: str = "after",
    baseline: Baseline | None = None,
    figures: Sequence[tuple[str, str | os.PathLike[str]]] = (),
    samples: Sequence[Mapping[str, Any]] = (),
    facts: Mapping[str, Any] | None = None,
    clusters: Sequence[Mapping[str, Any]] = (),
    subtitle: str = "",
) -> Path:
    """Write the page, images inlined, so that the file can be sent to somebody as it is.

    Args:
        before, after: what `evaluate_rows` returned, or paths of `results.json`; `before` may be None.
        name: what `after` is called.
        baseline: another run on the same questions.
        figures: (caption, PNG).
        samples: `domain`, `image` (path or paths), `prompt`, `reference`, the answers `before`, `baseline` and `after`,
            `cluster`; answers may be left out.
        facts: name -> value, shown on top.
        clusters: what `describe_clusters` gives: `cluster`, `size`, `nearest` (instructions).

    Raises:
        DataError: a results file or a figure is missing.
    """
    for caption, picture in figures:
        if not Path(picture).is_file():
            raise DataError(f"{picture}: no such figure (for {caption!r}).")
    by_domain: dict[str, list[Mapping[str, Any]]] = {}
    for entry in samples:
        by_domain.setdefault(str(entry.get("domain", "")), []).append(entry)
    first = _load(before) if before is not None else None
    second = _load(after)
    other = None if baseline is None else replace(baseline, results=_load(baseline.results))
    page = render_page(
        _PAGE,
        title=title,
        subtitle=subtitle,
        facts=facts,
        before=first,
        after=second,
        name=name,
        baseline=other,
        sides=[("before", "before"), ("baseline", other.name if other else ""), ("after", name)],
        runs=[("before", first), (other.name if other else "", other and other.results), (name, second)],
        clusters=clusters,
        figures=[(caption, data_uri(Path(picture).read_bytes(), "image/png")) for caption, picture in figures],
        samples=by_domain,
        image_token=IMAGE_TOKEN,
        percent=lambda share: f"{100 * share:.1f}",
        signed=lambda share: f"{100 * share:+.1f}".replace("-", "−"),
        between=lambda form, interval: " to ".join(map(form, interval or ())),
        score_difference=score_difference,
        verdict=verdict,
        exact_match=exact_match,
        pictures=_pictures,
    )
    write_text(out_html, page)
    return Path(out_html)


def describe_clusters(cluster_model: "ClusterModel", examples: int = 4) -> list[dict[str, Any]]:
    """Number of training rows and nearest instructions of each cluster, as `write_report` takes them."""
    return [
        {
            "cluster": cluster,
            "size": round(float(size)),
            "nearest": [example.text for example in cluster_model.nearest_examples(cluster, examples)],
        }
        for cluster, size in enumerate(cluster_model.counts)
    ]


def score_difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float | None, list[float] | None]:
    """`after - before` of two domains' scores, with a paired 95 % bootstrap interval where the items are the same."""
    if before.get("score") is None or after.get("score") is None:
        return None, None
    first, second = ([float(score) for score in str(side.get("item_scores", "")).split()] for side in (before, after))
    same_items = before.get("items_digest") == after.get("items_digest")
    paired = bool(first) and len(first) == len(second) and same_items
    interval = list(paired_difference_interval(first, second)) if paired else None
    return after["score"] - before["score"], interval


def _load(results: Results | str | os.PathLike[str]) -> Results:
    return results if isinstance(results, Mapping) else read_results(Path(results), HELD_OUT_KIND)


def _pictures(sample: Mapping[str, Any]) -> list[str]:
    """Data URIs of a sample's images, shrunk to 360 pixels: JPEG, or PNG where there are few colours."""
    images = sample.get("image") or []
    found = []
    for path in [images] if isinstance(images, (str, os.PathLike)) else images:
        image = load_image(Path(path))
        image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
        kind, options = ("png", {"optimize": True}) if image.getcolors(maxcolors=256) else ("jpeg", {"quality": 85})
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **options)
        found.append(data_uri(buffer.getvalue(), f"image/{kind}"))
    return found
