"""Reports that are one file: a page with its pictures, curves and tables inside."""

from .curves import RunCurves, plot_curves, read_curves
from .html import (
    code_block,
    coloured_phrases,
    figure,
    gallery,
    page,
    paragraph,
    section,
    table,
    tiles,
)

__all__ = [
    'RunCurves',
    'plot_curves',
    'read_curves',
    'code_block',
    'coloured_phrases',
    'figure',
    'gallery',
    'page',
    'paragraph',
    'section',
    'table',
    'tiles',
]
