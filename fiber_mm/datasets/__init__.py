"""Data sets and transforms; importing this package registers them."""

from .arrow import FiberArrowDataset
from .coco import FiberCocoDataset, FiberLVISDataset
from .concat import FiberConcatDataset
from .image_text import FiberImageTextDataset, FiberKarpathyDataset, FiberVGCaptionDataset
from .mdetr import FiberMDETRDataset
from .odvg import FiberODVGDataset
from .shards import FiberShardDataset
from .transforms import (
    FiberInclusiveBoxes,
    FiberLoadImage,
    FiberMaskTokens,
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
    'FiberArrowDataset',
    'FiberCocoDataset',
    'FiberConcatDataset',
    'FiberImageTextDataset',
    'FiberInclusiveBoxes',
    'FiberKarpathyDataset',
    'FiberLVISDataset',
    'FiberLoadImage',
    'FiberMDETRDataset',
    'FiberMaskTokens',
    'FiberODVGDataset',
    'FiberPackImageText',
    'FiberPackInputs',
    'FiberPrompt',
    'FiberRandAugment',
    'FiberRandomResizedCrop',
    'FiberResize',
    'FiberShardDataset',
    'FiberSquareResize',
    'FiberVGCaptionDataset',
    'LoadImageFromFile',
    'UnreadableImageError',
    'read_image',
]
