"""The report's elements: every function takes plain data and gives HTML with all text escaped."""

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from llava_mocle.data.conversation import IMAGE_TOKEN
from llava_mocle.data.images import load_image
from llava_mocle.evaluation.metrics.normalize import exact_match

_THUMBNAIL_PIXELS = 360


def escape(value: Any) -> str:
    """Text that is safe inside elements and quoted attributes."""
    return html.escape(str(value), quote=True)


def percent(score: float | None) -> str:
    return "–" if score is None else f"{100 * score:.1f}"


def score_cell(summary: Mapping[str, Any] | None, detail: str | None = None) -> str:
    """A number with its interval (or `detail`) below it."""
    if not summary or summary.get("score") is None:
        return '<td class="num">–</td>'
    interval = summary.get("interval")
    below = detail or (f"{percent(interval[0])} to {percent(interval[1])}" if interval else "")
    return f'<td class="num">{percent(summary["score"])}<span class="ci">{escape(below)}</span></td>'


def difference_cell(difference: float | None, interval: Sequence[float] | None) -> str:
    """A signed difference in points; coloured only where its interval leaves zero out."""
    if difference is None:
        return '<td class="num">–</td>'
    kind = ""
    if interval and (interval[0] > 0 or interval[1] < 0):
        kind = "up" if difference > 0 else "down"
    below = f"{_signed(interval[0])} to {_signed(interval[1])}" if interval else ""
    return f'<td class="num"><span class="{kind}">{_signed(difference)}</span><span class="ci">{below}</span></td>'


def bars_cell(before: float | None, after: float | None, reference: float | None) -> str:
    """Two bars from 0 to 1, with a mark at the reference."""
    mark = "" if reference is None else f'<b style="left:{100 * reference:.1f}%"></b>'
    rows = [(before, ' class="before"'), (after, "")]
    drawn = [
        f'<div class="bar"><i{kind} style="width:{100 * score:.1f}%"></i>{mark}</div>'
        for score, kind in rows
        if score is not None
    ]
    return f'<td class="bars" aria-hidden="true">{"".join(drawn)}</td>'


def table(header: Iterable[tuple[str, str]], rows: Iterable[str]) -> str:
    """A table in a card; `header` holds (text, class), `rows` the cells of each row, already HTML."""
    head = "".join(
        f'<th class="{kind}">{escape(text)}</th>' if kind else f"<th>{escape(text)}</th>" for text, kind in header
    )
    body = "".join(f"<tr>{cells}</tr>" for cells in rows)
    return f'<div class="card"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(values: Mapping[str, Any]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in values.items())
    return f'<dl class="facts">{items}</dl>' if items else ""


def figure(caption: str, picture: str | os.PathLike[str]) -> str:
    data = Path(picture).read_bytes()
    return (
        f'<figure class="card"><img alt="{escape(caption)}" src="{_data_uri(data, "image/png")}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def sample(values: Mapping[str, Any]) -> str:
    """A card: pictures, question, reference, and the answers before and after, marked right or wrong."""
    images = values.get("image") or []
    paths = [images] if isinstance(images, (str, os.PathLike)) else list(images)
    pictures = "".join(f'<img alt="" loading="lazy" src="{thumbnail(path)}">' for path in paths)
    reference = str(values.get("reference", ""))
    answers = "".join(
        f"<dt>{name}</dt><dd>{_marked(values[key], reference)}</dd>"
        for name, key in (("before", "before"), ("after", "after"))
        if values.get(key) is not None
    )
    cluster = values.get("cluster")
    tag = "" if cluster is None else f'<span class="tag">cluster {escape(cluster)}</span>'
    question = " ".join(str(values.get("prompt", "")).split(IMAGE_TOKEN)).strip()
    return (
        f'<article class="sample"><div class="pictures">{pictures}</div><div class="body">'
        f'<div class="question">{escape(question)}</div>'
        f"<dl><dt>reference</dt><dd>{escape(reference)}</dd>{answers}</dl>{tag}</div></article>"
    )


def thumbnail(path: str | os.PathLike[str]) -> str:
    """A data URI of the image, shrunk to 360 pixels: JPEG, or PNG where there are few colours."""
    image = load_image(Path(path)).copy()
    image.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    kind = "png" if image.getcolors(maxcolors=256) else "jpeg"
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **({"optimize": True} if kind == "png" else {"quality": 85}))
    return _data_uri(buffer.getvalue(), f"image/{kind}")


def _marked(answer: Any, reference: str) -> str:
    text = str(answer)
    if not text.strip():
        return '<span class="down">(empty)</span>'
    right = bool(exact_match(text, reference))
    mark = '<span class="mark up" title="right">✓</span>' if right else '<span class="mark down" title="wrong">✗</span>'
    return mark + escape(text)


def _signed(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
