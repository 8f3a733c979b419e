"""One self-contained HTML page of an experiment: the verdict, tables, and every figure in its folder, no network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.analysis.comparison_report import (
    JSON_FILE,
    NOTES,
    SPLIT_TITLES,
    ablation_table,
    cost_table,
    difference_table,
    introduction,
    reported_splits,
    score_table,
    search_table,
    share_table,
)
from llava_mocle.analysis.pages import data_uri, render_page
from llava_mocle.errors import DataError
from llava_mocle.experiment.comparison import KIND
from llava_mocle.io.files import write_text
from llava_mocle.io.jsonl import read_json

FIGURES_FOLDER, PAGE_FILE = "figures", "report.html"
_KINDS = {".png": "image/png", ".svg": "image/svg+xml"}

_PAGE = """{% extends "frame" %}
{% macro table(heads, rows) -%}
<div class="card"><table><thead><tr>{% for head in heads %}
<th{% if not loop.first %} class="num"{% endif %}>{{ head }}</th>{% endfor %}</tr></thead><tbody>
{% for row in rows %}
<tr>{% for cell in row %}
{% set parts = split(cell) %}
<td{% if not loop.first %} class="num"{% endif %}>{{ parts[0] }}
{%- if parts[1] %}<span class="ci">{{ parts[1] }}</span>{% endif %}</td>{% endfor %}</tr>
{% endfor %}
</tbody></table></div>
{%- endmacro %}
{% macro picture(figure) -%}
<figure class="card"><img alt="{{ figure.caption }}" src="{{ figure.data }}">
<figcaption>{{ figure.caption }}</figcaption></figure>
{%- endmacro %}
{% block body %}
{% for line in introduction %}
<p class="lead">{{ line }}</p>
{% endfor %}
{% for name in splits %}
{% set found = result.splits[name] %}
<section><h2>{{ titles[name] }}</h2>
<ul>{% for one in found.verdicts %}
<li>{{ one.question }} <b>{{ one.answer | capitalize }}</b>: {{ one.because }}</li>{% endfor %}</ul>
{% for figure in figures if figure.split == name %}
{{ picture(figure) }}
{% endfor %}
<h3>Scores, in percent</h3>
{{ table(*score_table(found)) }}
{% for other, methods in found.differences.items() %}
<h3>Differences from {{ other }}, in points</h3>
{{ table(*difference_table(found, methods)) }}
{% endfor %}
{% if found.shares %}
<h3>Share of the gap recovered, in percent</h3>
<p class="note">(method − {{ result.baseline }}) / ({{ result.single_domain }} − {{ result.baseline }})</p>
{{ table(*share_table(found.shares)) }}
{% endif %}
{% for ablation, entries in found.ablations.items() %}
<h3>Ablation: {{ ablation }}</h3>
{{ table(*ablation_table(ablation, entries)) }}
{% endfor %}
</section>
{% endfor %}
<section><h2>What each method took</h2>
{{ table(*cost_table(result)) }}</section>
{% if result.searches %}
<section><h2>The learning rates that were searched</h2>
{{ table(*search_table(result)) }}</section>
{% endif %}
{% set others = figures | selectattr("split", "none") | list %}
{% if others %}
<section><h2>More figures</h2>
{% for figure in others %}
{{ picture(figure) }}
{% endfor %}
</section>
{% endif %}
<p class="note">{{ notes }}</p>
<section><h2>How it was made</h2><div class="card"><code>{{ result.command }}</code></div></section>
<footer>{% for library, version in result.versions.items() %}{{ library }} {{ version }}{{ ", " if not loop.last }}
{%- endfor %}</footer>
{% endblock %}
"""


def write_experiment_page(folder: Path) -> Path:
    """Write `report.html` into the folder of an experiment.

    Pictures are those of its `figures` folder, `*.png` or, where a name has no PNG, `*.svg`; a caption is the `.txt` of
    the same name.

    Raises:
        DataError: the folder has no `comparison.json`.
    """
    result = read_comparison(folder)
    page = render_page(
        _PAGE,
        title="Comparison",
        result=result,
        introduction=list(introduction(result)),
        splits=reported_splits(result),
        titles=SPLIT_TITLES,
        figures=_figures(folder / FIGURES_FOLDER, reported_splits(result)),
        notes=NOTES,
        split=lambda cell: (cell.partition(" (")[0], cell.partition(" (")[2].removesuffix(")")),
        score_table=score_table,
        difference_table=difference_table,
        share_table=share_table,
        ablation_table=ablation_table,
        cost_table=cost_table,
        search_table=search_table,
    )
    write_text(folder / PAGE_FILE, page)
    return folder / PAGE_FILE


def read_comparison(folder: Path) -> dict[str, Any]:
    """What `llava-mocle compare` wrote into the folder of an experiment.

    Raises:
        DataError: there is nothing, or something else.
    """
    path = folder / JSON_FILE
    result = read_json(path, "give the output_dir of a `llava-mocle compare` that has written its report", DataError)
    if result.get("kind") != KIND:
        raise DataError(f"{path}: is of kind {result.get('kind')!r}, expected {KIND!r}; give an experiment's folder")
    return result


def _figures(folder: Path, splits: Sequence[str]) -> list[Mapping[str, Any]]:
    chosen: dict[str, Path] = {}
    # Backwards: methods come before ablations.
    for path in sorted(folder.glob("*"), reverse=True):
        if path.suffix in _KINDS and chosen.setdefault(path.stem, path).suffix != ".png":
            chosen[path.stem] = path
    found: list[Mapping[str, Any]] = []
    for stem, path in chosen.items():
        caption = path.with_suffix(".txt")
        found.append(
            {
                "split": next((split for split in splits if stem.endswith(f"_{split}")), None),
                "caption": caption.read_text(encoding="utf-8").strip() if caption.is_file() else stem,
                "data": data_uri(path.read_bytes(), _KINDS[path.suffix]),
            }
        )
    return found
