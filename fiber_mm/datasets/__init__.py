"""Data sets and transforms; importing this package registers them."""

from .coco import FiberCocoDataset, FiberLVISDataset
from .mdetr import FiberMDETRDataset
from .odvg import FiberODVGDataset
from .transforms import (
    FiberInclusiveBoxes,
    FiberLoadImage,
    FiberPackInputs,
    FiberPrompt,
    FiberResize,
    LoadImageFromFile,
    read_image,
)

__all__ = [
    'FiberCocoDataset',
    'FiberInclusiveBoxes',
    'FiberLVISDataset',
    'FiberLoadImage',
    'FiberMDETRDataset',
    'FiberODVGDataset',
    'FiberPackInputs',
    'FiberPrompt',
    'FiberResize',
    'LoadImageFromFile',
    'read_image',
]
