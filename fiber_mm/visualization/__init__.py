"""Drawing of detections and groundings."""

from .draw import DrawnBox, draw_boxes, drawing_scale, place_label
from .palette import OKABE_ITO, colours_of, hex_of, ink_on

__all__ = [
    'DrawnBox',
    'draw_boxes',
    'drawing_scale',
    'place_label',
    'OKABE_ITO',
    'colours_of',
    'hex_of',
    'ink_on',
]
