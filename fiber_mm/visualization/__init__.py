"""Drawing of detections, groundings and found images."""

from .draw import DrawnBox, draw_boxes, drawing_scale, place_label
from .heatmap import blend_heatmap, draw_heatmaps
from .palette import OKABE_ITO, colours_of, hex_of, ink_on
from .sheet import Tile, contact_sheet

__all__ = [
    'DrawnBox',
    'blend_heatmap',
    'draw_boxes',
    'draw_heatmaps',
    'drawing_scale',
    'place_label',
    'OKABE_ITO',
    'colours_of',
    'hex_of',
    'ink_on',
    'Tile',
    'contact_sheet',
]
