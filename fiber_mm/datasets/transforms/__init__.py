"""Transforms: reading, resizing and augmenting images, ground-truth boxes, prompts, packing."""

from .augment import FiberRandAugment, FiberRandomResizedCrop, FiberSquareResize
from .boxes import FiberInclusiveBoxes
from .image import (
    FiberLoadImage,
    FiberResize,
    LoadImageFromFile,
    UnreadableImageError,
    read_image,
)
from .mask import FiberMaskTokens
from .prompt import FiberPackInputs, FiberPrompt
from .text import FiberPackImageText

__all__ = [
    'FiberInclusiveBoxes',
    'FiberLoadImage',
    'FiberMaskTokens',
    'FiberPackImageText',
    'FiberPackInputs',
    'FiberPrompt',
    'FiberRandAugment',
    'FiberRandomResizedCrop',
    'FiberResize',
    'FiberSquareResize',
    'LoadImageFromFile',
    'UnreadableImageError',
    'read_image',
]
