"""Tables of runs, as Markdown and as one HTML page."""

import os
from collections.abc import Sequence
from pathlib import Path

from llava_mocle.analysis.benchmark_sections import Cell, Section
from llava_mocle.analysis.markdown import markdown_table
from llava_mocle.analysis.pages import render_page, verdict
from llava_mocle.io.files import write_text


def to_markdown(sections: Sequence[Section]) -> str:
    """The tables in GitHub's Markdown."""
    parts = []
    for section in sections:
        rows = [
            [
                f"**{row.name}**" if row.ours else row.name,
                *(f"{_value(cell)} ({_below(cell)})" if _below(cell) else _value(cell) for cell in row.cells),
            ]
            for row in section.rows
        ]
        parts.append(f"## {section.title}\n\n{markdown_table(['', *section.columns], rows)}")
        parts += section.notes
    return "\n\n".join([*parts, NOTE]) + "\n"


NOTE = (
    "Small print: intervals are 95 % bootstrap intervals over the items. The paper gives none, so a difference from "
    "the paper carries ours alone and is really less certain. A difference between two runs has an interval "
    "where both were asked the same and the metric is a mean of items."
)


_PAGE = """{% extends "frame" %}
{% from "cells" import number %}
{% block body %}
{% for section in sections %}
<section><h2>{{ section.title }}</h2>
<div class="card"><table><thead><tr><th></th>
{%- for column in section.columns %}<th class="num">{{ column }}</th>{% endfor %}</tr></thead><tbody>
{% for row in section.rows %}
<tr><td>{% if row.ours %}<b>{{ row.name }}</b>{% else %}{{ row.name }}{% endif %}</td>
{% for cell in row.cells %}
{{ number(value(cell), below(cell), verdict(cell.interval) if cell.difference else "") }}
{% endfor %}
</tr>
{% endfor %}
</tbody></table></div>
{% for note in section.notes %}
<p>{{ note }}</p>
{% endfor %}
</section>
{% endfor %}
<p>{{ small_print }}</p>
{% endblock %}
"""


def to_html(sections: Sequence[Section], title: str = "Benchmarks") -> str:
    """One self-contained page."""
    return render_page(
        _PAGE, title=title, sections=sections, small_print=NOTE, value=_value, below=_below, verdict=verdict
    )


def write_report_files(sections: Sequence[Section], folder: str | os.PathLike[str], name: str) -> list[Path]:
    """Write `NAME.md` and `NAME.html` into `folder`."""
    title = name.replace("_", "-").capitalize()
    paths = []
    for suffix, text in ((".md", to_markdown(sections)), (".html", to_html(sections, title))):
        path = Path(folder) / f"{name}{suffix}"
        write_text(path, text)
        paths.append(path)
    return paths


def _number(value: float, signed: bool = False) -> str:
    digits = 0 if abs(value) >= 1000 and value == int(value) else 1 if abs(value) >= 1000 else 2
    return f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"


def _value(cell: Cell) -> str:
    return "–" if cell.value is None else _number(cell.value, cell.difference)


def _below(cell: Cell) -> str:
    """The interval and the note."""
    ends = [_number(end, cell.difference) for end in cell.interval or ()]
    return ", ".join(part for part in (" to ".join(ends), cell.note) if part)
