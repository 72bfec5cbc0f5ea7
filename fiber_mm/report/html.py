"""Pieces of a page. Text is escaped here; ``html`` in a name means it is markup already."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from fiber_mm.visualization import hex_of

_STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --line: #dde2e8; --ground: #f6f7f9;
  --good: #00795b; --bad: #b34700; --link: #00578f; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 28px 20px 60px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; }
h2 { font-size: 1.3rem; margin: 0 0 .5rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px;
  padding: 20px 22px; margin-top: 20px; }
p { margin: .4rem 0 .8rem; max-width: 76ch; }
.soft { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 14px;
  margin-top: 18px; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 14px 16px; }
.tile .value { font-size: 2rem; font-weight: 650; line-height: 1.15;
  font-variant-numeric: tabular-nums; }
.tile .name { font-weight: 600; }
.tile .note { font-size: .9rem; color: var(--soft); }
.good { color: var(--good); } .bad { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
td + td { white-space: nowrap; } td.long { white-space: normal; }
th { font-size: .88rem; color: var(--soft); font-weight: 600; }
.gallery { display: grid; gap: 22px; margin-top: 14px; }
.gallery.small { grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); }
.gallery.wide { grid-template-columns: repeat(auto-fill, minmax(460px, 1fr)); }
figure { margin: 0; min-width: 0; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 10px; }
img { display: block; width: 100%; height: auto; border-radius: 6px;
  border: 1px solid var(--line); }
figcaption { margin-top: 6px; font-size: .94rem; }
mark { color: inherit; padding: 0 .15em; border-radius: 3px;
  background: color-mix(in srgb, var(--c) 22%, white);
  border-bottom: 3px solid var(--c); box-decoration-break: clone;
  -webkit-box-decoration-break: clone; }
pre { background: var(--ground); border: 1px solid var(--line); border-radius: 8px;
  padding: 12px 14px; overflow-x: auto; font-size: .88rem; }
ul { margin: .3rem 0; padding-left: 1.2rem; }
@media (max-width: 640px) {
  main { padding: 16px 10px 40px; } section { padding: 14px 12px; }
  .gallery.small, .gallery.wide { grid-template-columns: 1fr; }
  .tiles { grid-template-columns: 1fr 1fr; gap: 8px; } .tile { padding: 10px 12px; }
  .tile .value { font-size: 1.5rem; } h1 { font-size: 1.5rem; }
  .full .pair { grid-template-columns: 1fr; }
}
"""


def page(title: str, body_html: str) -> str:
    """A whole document that loads nothing from anywhere."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n'
        f'<body>\n<main>\n{body_html}\n</main>\n</body>\n</html>\n'
    )


def section(title: str, *parts_html: str) -> str:
    """A titled block."""
    return f'<section>\n<h2>{escape(title)}</h2>\n' + '\n'.join(parts_html) + '\n</section>'


def paragraph(text: str, soft: bool = False) -> str:
    """A paragraph of plain text."""
    return f'<p{" class=soft" if soft else ""}>{escape(text)}</p>'


def code_block(text: str) -> str:
    """Text in a fixed-width font."""
    return f'<pre>{escape(text)}</pre>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain texts; cells that start with ✓ or ✗ are coloured."""

    def cell(text: str) -> str:
        tone = {'✓': ' class=good', '✗': ' class=bad'}.get(text[:1], '')
        if len(text) > 40:
            tone = ' class=long'
        return f'<td{tone}>{escape(text)}</td>'

    head = ''.join(f'<th>{escape(name)}</th>' for name in header)
    body = '\n'.join('<tr>' + ''.join(map(cell, row)) + '</tr>' for row in rows)
    return f'<div class=scroll><table>\n<tr>{head}</tr>\n{body}\n</table></div>'


def tiles(items: Sequence[tuple[str, str, str, bool]]) -> str:
    """Large numbers side by side: (name, value, note, whether it is good)."""
    cells = ''.join(
        f'<div class=tile><div class=name>{escape(name)}</div>'
        f'<div class="value {"good" if good else "bad"}">{escape(value)}</div>'
        f'<div class=note>{escape(note)}</div></div>'
        for name, value, note, good in items
    )
    return f'<div class=tiles>{cells}</div>'


def figure(pictures: np.ndarray | bytes | Sequence[np.ndarray], caption_html: str, alt: str) -> str:
    """A picture, or two side by side, with a caption.

    Args:
        pictures: (H, W, 3) uint8 RGB, stored as JPEG; or the bytes of a PNG; or two arrays.
        caption_html: Markup of the caption; empty for none.
        alt: What the picture shows, for those who cannot see it.
    """
    caption = f'<figcaption>{caption_html}</figcaption>' if caption_html else ''
    if isinstance(pictures, (np.ndarray, bytes)):
        return f'<figure>{_image(pictures, alt)}{caption}</figure>'
    images = ''.join(_image(picture, alt) for picture in pictures)
    return f'<figure><div class=pair>{images}</div>{caption}</figure>'


def _image(picture: np.ndarray | bytes, alt: str) -> str:
    if isinstance(picture, bytes):
        kind, data = 'png', picture
    else:
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, 'JPEG', quality=86, optimize=True)
        kind, data = 'jpeg', buffer.getvalue()
    source = f'data:image/{kind};base64,{base64.b64encode(data).decode()}'
    return f'<img src="{source}" alt="{escape(alt, quote=True)}" loading="lazy">'


def gallery(figures_html: Sequence[str], width: str = 'wide') -> str:
    """Figures in a grid: ``'full'`` one a row, ``'wide'`` two, ``'small'`` three."""
    return f'<div class="gallery {escape(width)}">\n' + '\n'.join(figures_html) + '\n</div>'


def coloured_phrases(
    caption: str,
    spans: Sequence[Sequence[Sequence[int]]],
    colours: Sequence[tuple[int, int, int]],
) -> str:
    """Markup of a caption with every phrase in its colour.

    Args:
        caption: Plain text.
        spans: For each phrase its character spans [start, end).
        colours: One RGB colour per phrase.

    Returns:
        Markup. Of overlapping spans the one that starts first is marked.
    """
    marks = sorted(
        (start, end, hex_of(colour))
        for phrase, colour in zip(spans, colours)
        for start, end in phrase
    )
    parts, position = [], 0
    for start, end, colour in marks:
        if start < position:
            continue
        parts.append(escape(caption[position:start]))
        parts.append(f'<mark style="--c:{colour}">{escape(caption[start:end])}</mark>')
        position = end
    return ''.join(parts) + escape(caption[position:])
