"""Transforms: reading and resizing images, ground-truth boxes, training prompts."""

from .boxes import FiberInclusiveBoxes
from .image import FiberLoadImage, FiberResize, LoadImageFromFile, read_image
from .prompt import FiberPackInputs, FiberPrompt

__all__ = [
    'FiberInclusiveBoxes',
    'FiberLoadImage',
    'FiberPackInputs',
    'FiberPrompt',
    'FiberResize',
    'LoadImageFromFile',
    'read_image',
]
