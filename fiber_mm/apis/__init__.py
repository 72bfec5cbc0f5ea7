"""Using a trained model in a few lines of Python."""

from .heatmap import FiberHeatmap, PhraseMaps
from .inference import EncodedImage, encode_image, ground, init_grounder

__all__ = [
    'EncodedImage',
    'FiberHeatmap',
    'PhraseMaps',
    'encode_image',
    'ground',
    'init_grounder',
]
