"""HTML pages: one frame, one stylesheet, and the cells of their tables. Jinja escapes all text that is filled in."""

import base64
from collections.abc import Sequence
from typing import Any

from jinja2 import DictLoader, Environment

_CSS = """
:root{--ink:#1c2430;--soft:#5b6675;--line:#e3e7ec;--paper:#fff;--wash:#f5f7fa;--accent:#0072b2;--good:#007a55;--bad:#b3470a;
--before:#a9b4c0;--baseline:#cc79a7;--reference:#e69f00}
*{box-sizing:border-box}
body{margin:0;background:var(--wash);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1080px;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.01em}
h2{font-size:1.25rem;margin:2.6rem 0 .8rem}
p{margin:.3rem 0 .8rem}
.lead,.note{color:var(--soft)}.note{font-size:.87rem;max-width:80ch}
.card{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:1rem 1.2rem;overflow-x:auto}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(11.5rem,1fr));gap:.75rem;margin:1.4rem 0 0}
.facts div{background:var(--paper);border:1px solid var(--line);border-radius:12px;padding:.7rem .9rem;min-width:0}
.facts dt{color:var(--soft);font-size:.8rem}.facts dd{margin:0;font-weight:600;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th{color:var(--soft);font-size:.8rem;font-weight:600;text-align:left;white-space:nowrap}
th,td{padding:.5rem .65rem;border-bottom:1px solid var(--line);vertical-align:top}
tr:last-child td{border-bottom:0}
.num{text-align:right;white-space:nowrap}.ci{color:var(--soft);font-size:.82rem;display:block}
.up{color:var(--good);font-weight:600}.down{color:var(--bad);font-weight:600}
.bars{min-width:12rem;padding-top:.7rem}
.bar{position:relative;height:9px;margin-bottom:4px;background:var(--wash);border-radius:5px}
.bar i{position:absolute;inset:0 auto 0 0;border-radius:5px;background:var(--accent)}
.bar i.before{background:var(--before)}.bar i.baseline{background:var(--baseline)}
.bar b{position:absolute;top:-3px;bottom:-3px;width:2px;background:var(--reference)}
.key i{display:inline-block;width:.8rem;height:.55rem;border-radius:3px;margin:0 .3rem 0 .9rem}
.key i:first-child{margin-left:0}
.k-before{background:var(--before)}.k-baseline{background:var(--baseline)}.k-after{background:var(--accent)}
.key i.k-majority{background:var(--reference);width:3px;height:.8rem;vertical-align:middle}
ul.plain{list-style:none;margin:0;padding:0}ul.plain li{margin:0 0 .2rem}
figure{margin:0 0 1rem}figure img{display:block;max-width:100%;height:auto;margin:0 auto}
figcaption{color:var(--soft);font-size:.9rem;margin-top:.6rem}
h3{font-size:1rem;margin:1.4rem 0 .6rem}
.samples{display:grid;grid-template-columns:repeat(auto-fill,minmax(18.5rem,1fr));gap:.9rem}
.sample{background:var(--paper);border:1px solid var(--line);border-radius:12px;overflow:hidden;
display:flex;flex-direction:column}
.sample .pictures{display:flex;gap:2px;background:#eef1f5;justify-content:center}
.sample img{display:block;height:170px;max-width:100%;object-fit:contain}
.sample .body{padding:.8rem 1rem 1rem}
.sample .question{font-weight:600;margin-bottom:.6rem;white-space:pre-line;overflow-wrap:anywhere}
.sample dl{display:grid;grid-template-columns:5.2rem 1fr;gap:.15rem .6rem;margin:0;font-size:.92rem}
.sample dt{color:var(--soft)}.sample dd{margin:0;overflow-wrap:anywhere;white-space:pre-line}
.tag{display:inline-block;font-size:.75rem;color:var(--soft);border:1px solid var(--line);
border-radius:99px;padding:0 .55rem;margin-top:.6rem}
.mark{font-weight:700;margin-right:.3rem}
code{font:.84rem/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;overflow-wrap:anywhere;white-space:pre-wrap}
footer{margin-top:3rem;color:var(--soft);font-size:.85rem}
@media (max-width:640px){h1{font-size:1.5rem}th,td{padding:.4rem .45rem}.bars{min-width:7rem}}
@media print{body{background:#fff}.card,.sample{break-inside:avoid}}
"""

_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>{{ title }}</title><style>{% include "css" %}</style></head><body><main>
<h1>{{ title }}</h1>
{% block body %}{% endblock %}
</main></body></html>
"""

_CELLS = """
{% macro number(text, below="", kind="") -%}
<td class="num"><span class="{{ kind }}">{{ text }}</span><span class="ci">{{ below }}</span></td>
{%- endmacro %}
"""


def render_page(template: str, **values: Any) -> str:
    """Fill in a template that extends "frame" and may import the macro `number` from "cells"."""
    parts = {"frame": _FRAME, "css": _CSS, "cells": _CELLS}
    pages = Environment(loader=DictLoader(parts), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return pages.from_string(template).render(values)


def verdict(interval: Sequence[float] | None) -> str:
    """The class of a difference with this interval: "up" or "down" if it leaves zero out, else ""."""
    if interval is None:
        return ""
    return "up" if interval[0] > 0 else "down" if interval[1] < 0 else ""


def data_uri(data: bytes, kind: str) -> str:
    """A file inside a page; `kind` is its media type, such as image/png."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
