"""Data sets and transforms; importing this package registers them."""

from .coco import FiberCocoDataset, FiberLVISDataset
from .image_text import FiberImageTextDataset, FiberKarpathyDataset, FiberVGCaptionDataset
from .mdetr import FiberMDETRDataset
from .odvg import FiberODVGDataset
from .transforms import (
    FiberInclusiveBoxes,
    FiberLoadImage,
    FiberPackImageText,
    FiberPackInputs,
    FiberPrompt,
    FiberRandAugment,
    FiberRandomResizedCrop,
    FiberResize,
    FiberSquareResize,
    LoadImageFromFile,
    UnreadableImageError,
    read_image,
)

__all__ = [
    'FiberCocoDataset',
    'FiberImageTextDataset',
    'FiberInclusiveBoxes',
    'FiberKarpathyDataset',
    'FiberLVISDataset',
    'FiberLoadImage',
    'FiberMDETRDataset',
    'FiberODVGDataset',
    'FiberPackImageText',
    'FiberPackInputs',
    'FiberPrompt',
    'FiberRandAugment',
    'FiberRandomResizedCrop',
    'FiberResize',
    'FiberSquareResize',
    'FiberVGCaptionDataset',
    'LoadImageFromFile',
    'UnreadableImageError',
    'read_image',
]
