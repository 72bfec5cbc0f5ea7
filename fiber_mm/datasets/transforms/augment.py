"""Resizing and augmentation of the coarse stage: square images, RandAugment over ten operations."""

# The host stack's transforms draw from NumPy's global generator, which the engine seeds.
# ruff: noqa: NPY002

from __future__ import annotations

from collections.abc import Callable

import mmcv
import numpy as np
from mmcv.transforms import BaseTransform, Resize
from mmpretrain.datasets.transforms import RandomResizedCrop
from PIL import Image, ImageEnhance, ImageOps

from fiber_mm.registry import TRANSFORMS

HIGHEST = 10  # the magnitude that the original's tables of operations end at


@TRANSFORMS.register_module()
class FiberSquareResize(Resize):
    """Resize to a square with Pillow's antialiased bicubic filter, without keeping proportions.

    The original's transform of pre-training and evaluation; ImageNet's mean and deviation are the
    data preprocessor's.

    Required Keys: img (uint8)
    Modified Keys: img, img_shape
    Added Keys: scale, scale_factor, keep_ratio

    Args:
        size: Side in pixels.
    """

    def __init__(self, size: int) -> None:
        if size < 1:
            raise ValueError(f'size must be a positive number of pixels, got {size}')
        super().__init__(
            scale=(size, size), keep_ratio=False, backend='pillow', interpolation='bicubic'
        )


@TRANSFORMS.register_module()
class FiberRandomResizedCrop(RandomResizedCrop):
    """mmpretrain's crop with the original's numbers: half to all of the area, bicubic.

    Required Keys: img (uint8)
    Modified Keys: img, img_shape (height, width)

    Args:
        size: Side of the square in pixels.
        scale: Least and greatest share of the area.
        ratio: Least and greatest width / height of the crop.
    """

    def __init__(
        self,
        size: int,
        scale: tuple[float, float] = (0.5, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
    ) -> None:
        if size < 1:
            raise ValueError(f'size must be a positive number of pixels, got {size}')
        super().__init__(
            size,
            crop_ratio_range=tuple(scale),
            aspect_ratio_range=tuple(ratio),
            interpolation='bicubic',
            backend='pillow',
        )

    def transform(self, results: dict) -> dict:
        """Crop and resize."""
        results = super().transform(results)
        results['img_shape'] = results['img'].shape[:2]
        return results


@TRANSFORMS.register_module()
class FiberRandAugment(BaseTransform):
    """The original's RandAugment: ``num_ops`` of ten operations, each applied with ``prob``.

    Operations are drawn with replacement. Their strength is fixed by ``magnitude``; the direction
    of shears, shifts and turns is random. Against mmpretrain's ``RandAugment``: shifts are in
    pixels, brightness and sharpness only ever rise, identity is among the operations.

    =====================  ===========================  ============
    operation              strength                     magnitude 7
    =====================  ===========================  ============
    Brightness, Sharpness  factor 0.1 + 0.18 magnitude  1.36
    ShearX, ShearY         0.03 magnitude               ±0.21
    TranslateX, -Y         magnitude pixels             ±7
    Rotate                 3 magnitude degrees          ±21
    =====================  ===========================  ============

    Required Keys: img (uint8)
    Modified Keys: img

    Args:
        num_ops: Operations drawn per image.
        magnitude: 0 to 10.
        prob: Probability that a drawn operation is applied.
        fill: Grey value of what moves in from outside.
    """

    def __init__(
        self, num_ops: int = 2, magnitude: float = 7, prob: float = 0.5, fill: int = 128
    ) -> None:
        if num_ops < 0:
            raise ValueError(f'num_ops must be at least 0, got {num_ops}')
        if not 0 <= magnitude <= HIGHEST:
            raise ValueError(f'magnitude must be from 0 to {HIGHEST}, got {magnitude}')
        if not 0 <= prob <= 1:
            raise ValueError(f'prob must be a probability, got {prob}')
        self.num_ops, self.magnitude, self.prob, self.fill = num_ops, magnitude, prob, fill

    def transform(self, results: dict) -> dict:
        """Augment the image."""
        img = results['img']
        if img.dtype != np.uint8:
            raise TypeError(f'FiberRandAugment wants an uint8 image, got {img.dtype}')
        for name in self.draw():
            img = apply_op(name, img, self.magnitude, draw_sign(), self.fill)
        results['img'] = np.require(img, requirements=['C', 'W'])
        return results

    def draw(self) -> list[str]:
        """Names of the operations to apply, in order."""
        names = np.random.choice(list(OPERATIONS), self.num_ops)
        return [str(name) for name in names if np.random.random() < self.prob]

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(num_ops={self.num_ops}, magnitude={self.magnitude}, '
            f'prob={self.prob}, fill={self.fill})'
        )


def draw_sign() -> int:
    """-1 or 1."""
    return 1 if np.random.random() < 0.5 else -1


def apply_op(
    name: str, img: np.ndarray, magnitude: float = 7, sign: int = 1, fill: int = 128
) -> np.ndarray:
    """Apply one operation.

    Args:
        name: Key of ``OPERATIONS``.
        img: (H, W, 3) uint8, channels in any order.
        magnitude: 0 to 10.
        sign: Direction of a shear, shift or turn: 1 or -1.
        fill: Grey value of what moves in from outside.

    Returns:
        (H, W, 3) uint8.
    """
    return OPERATIONS[name](img, magnitude / HIGHEST, sign, fill)


def _with_pillow(function: Callable[[Image.Image], Image.Image], img: np.ndarray) -> np.ndarray:
    return np.asarray(function(Image.fromarray(np.ascontiguousarray(img))))


def _brightness(img: np.ndarray, strength: float, sign: int, fill: int) -> np.ndarray:
    table = (np.arange(256) * _factor(strength)).clip(0, 255).astype(np.uint8)
    return mmcv.lut_transform(img, table)


def _sharpness(img: np.ndarray, strength: float, sign: int, fill: int) -> np.ndarray:
    # Pillow's leaves the outermost pixels as they are, as the original does.
    return _with_pillow(lambda i: ImageEnhance.Sharpness(i).enhance(_factor(strength)), img)


def _factor(strength: float) -> float:
    return 0.1 + 1.8 * strength


def _shear(direction: str) -> Callable:
    def op(img: np.ndarray, strength: float, sign: int, fill: int) -> np.ndarray:
        return mmcv.imshear(img, sign * 0.3 * strength, direction, border_value=fill)

    return op


def _translate(direction: str) -> Callable:
    def op(img: np.ndarray, strength: float, sign: int, fill: int) -> np.ndarray:
        return mmcv.imtranslate(img, sign * 10.0 * strength, direction, border_value=fill)

    return op


def _rotate(img: np.ndarray, strength: float, sign: int, fill: int) -> np.ndarray:
    # The centre is the original's, half a pixel right of and below the middle. As border_value, a
    # number would fill the first channel alone.
    centre = (img.shape[1] / 2, img.shape[0] / 2)
    return mmcv.imrotate(img, sign * 30.0 * strength, centre, border_value=(fill, fill, fill))


#: name -> function of (img, strength in [0, 1], sign, fill)
OPERATIONS: dict[str, Callable[[np.ndarray, float, int, int], np.ndarray]] = {
    'Identity': lambda img, strength, sign, fill: img,
    'AutoContrast': lambda img, strength, sign, fill: _with_pillow(ImageOps.autocontrast, img),
    'Equalize': lambda img, strength, sign, fill: _with_pillow(ImageOps.equalize, img),
    'Brightness': _brightness,
    'Sharpness': _sharpness,
    'ShearX': _shear('horizontal'),
    'ShearY': _shear('vertical'),
    'TranslateX': _translate('horizontal'),
    'TranslateY': _translate('vertical'),
    'Rotate': _rotate,
}
