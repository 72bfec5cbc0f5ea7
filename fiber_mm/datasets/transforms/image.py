"""Reading and resizing images as the original does, or as a person sees them."""

# The host stack's transforms draw from NumPy's global generator, which the engine seeds.
# ruff: noqa: NPY002

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform
from mmcv.transforms import LoadImageFromFile as MMCVLoadImageFromFile
from mmdet.structures.bbox import autocast_box_type
from mmengine import fileio
from mmengine.fileio import BaseStorageBackend, register_backend
from PIL import Image, UnidentifiedImageError

from fiber_mm.registry import TRANSFORMS

WHITE = (255, 255, 255)
IMAGE_BACKEND = 'fiber_image'
_ORIENTATION = 0x0112  # of EXIF
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImageError(ValueError):
    """A file that is no image, or a damaged one."""


def read_image(
    path: str, as_released: bool = False, backend_args: dict | None = None
) -> np.ndarray:
    """Read an image file.

    Args:
        path: File, or any address that mmengine's file backends know.
        as_released: What the original does: EXIF rotation and transparency are ignored. If not,
            the image is read as a person sees it: rotated, on white paper, 16 bits scaled to 8.
        backend_args: For mmengine's ``fileio.get``.

    Returns:
        (H, W, 3) uint8, BGR.

    Raises:
        FileNotFoundError: If there is no such file.
        UnreadableImageError: If the file is empty, truncated or no image; names it.
    """
    try:
        content = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as error:
        raise FileNotFoundError(f'there is no image file {path}') from error
    except IsADirectoryError as error:
        raise UnreadableImageError(f'{path} is a folder, an image file is wanted') from error
    return decode_image(content, path, as_released)


def decode_image(content: bytes, path: str = 'image', as_released: bool = False) -> np.ndarray:
    """Decode the bytes of an image file; see :func:`read_image`."""
    if len(content) == 0:
        raise UnreadableImageError(f'the image file {path} is empty (0 bytes)')
    try:
        image = Image.open(io.BytesIO(content))
    except UnidentifiedImageError as error:
        raise UnreadableImageError(
            f'the file {path} ({len(content)} bytes, beginning with {content[:8]!r}) is no image '
            'of a known format'
        ) from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(
            f'the image file {path} is too large to be read: {error}'
        ) from error
    except Exception as error:  # a damaged file may raise anything
        raise UnreadableImageError(f'the image file {path} is damaged: {_reason(error)}') from error
    try:
        image.load()
        rgb = image.convert('RGB') if as_released else as_seen(image)
    except Exception as error:
        raise UnreadableImageError(
            f'the image file {path} ({image.format}, mode {image.mode}, {image.size[0]} x '
            f'{image.size[1]}) is truncated, damaged or of a colour mode that cannot be read: '
            f'{_reason(error)}'
        ) from error
    return np.ascontiguousarray(np.asarray(rgb)[:, :, ::-1])


def _reason(error: Exception) -> str:
    """What an error says; those that are not meant for reading with their type."""
    return str(error) if isinstance(error, (OSError, SyntaxError, ValueError)) else repr(error)


def as_seen(image: Image.Image) -> Image.Image:
    """An RGB image that looks like what a viewer shows."""
    image.load()
    image = _turned(image)
    if image.mode.startswith('I') or image.mode == 'F':
        return _deep_to_rgb(image)
    if image.mode in ('RGBA', 'LA', 'PA', 'RGBa', 'La') or 'transparency' in image.info:
        image = image.convert('RGBA')
        paper = Image.new('RGB', image.size, WHITE)
        paper.paste(image, mask=image.getchannel('A'))
        return paper
    return image.convert('RGB')


def _turned(image: Image.Image) -> Image.Image:
    """Turned as its EXIF data say; as it is stored if they cannot be read.

    Pillow's ``exif_transpose`` also writes the data anew, which fails if another entry is faulty.
    """
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except Exception:  # noqa: BLE001  (faulty data may raise anything)
        return image
    return image if turn is None else image.transpose(turn)


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """16-bit (or 32-bit) grey values scaled to 8 bits; Pillow's own conversion would clip."""
    values = np.asarray(image).astype(np.float64)
    top = values.max()
    if image.mode == 'F':
        full = 1.0 if top <= 1 else 255.0 if top <= 255 else top
    else:
        full = 65535.0 if top <= 65535 else top
    grey = np.nan_to_num(values / full * 255).clip(0, 255).round().astype(np.uint8)
    return Image.fromarray(grey).convert('RGB')


@register_backend(IMAGE_BACKEND)
class FiberImageBackend(BaseStorageBackend):
    """Hands out any image as a plain bitmap, read by :func:`read_image`.

    mmdet's ``DetInferencer`` exchanges the loading transform of a config for mmcv's, which shows
    what lies below transparent pixels and does not name a faulty file. It keeps ``backend_args``:
    ``dict(backend='fiber_image')`` there has images read as :class:`FiberLoadImage` reads them.

    Args:
        as_released: See :func:`read_image`.
    """

    def __init__(self, as_released: bool = False) -> None:
        self.as_released = as_released

    def get(self, filepath: str) -> bytes:
        """The bytes of a bitmap file."""
        bitmap = io.BytesIO()
        Image.fromarray(read_image(str(filepath), self.as_released)[..., ::-1]).save(bitmap, 'BMP')
        return bitmap.getvalue()

    def get_text(self, filepath: str, encoding: str = 'utf-8') -> str:
        """Images are no text."""
        raise NotImplementedError(f'{IMAGE_BACKEND!r} reads images, {filepath} is wanted as text')


@TRANSFORMS.register_module()
class FiberLoadImage(MMCVLoadImageFromFile):
    """Load an image by :func:`read_image`.

    In a config that mmdet's ``DetInferencer`` shall open, write
    ``type='fiber_mm.datasets.LoadImageFromFile'``: the inferencer looks for that last word and
    puts its own loader there, with the same arguments; see :class:`FiberImageBackend`.

    Required Keys: img_path; optional img_bytes, the content of the file (``img_path`` then only
        says in errors where it comes from)
    Added Keys: img (H, W, 3) uint8 BGR, img_shape, ori_shape
    Deleted Keys: img_bytes

    Args:
        color_type: ``'color'`` for an image as a person sees it, ``'color_ignore_orientation'``
            for what the original does (benchmarks).
        to_float32, imdecode_backend, backend_args: As in mmcv; the backend is always Pillow.
    """

    def __init__(
        self,
        to_float32: bool = False,
        color_type: str = 'color',
        imdecode_backend: str = 'pillow',
        backend_args: dict | None = None,
    ) -> None:
        if color_type not in ('color', 'color_ignore_orientation'):
            raise ValueError(
                f"color_type must be 'color' or 'color_ignore_orientation', got {color_type!r}"
            )
        if imdecode_backend != 'pillow':
            raise ValueError(f"imdecode_backend must be 'pillow', got {imdecode_backend!r}")
        super().__init__(
            to_float32=to_float32,
            color_type=color_type,
            imdecode_backend=imdecode_backend,
            backend_args=backend_args,
        )

    def transform(self, results: dict) -> dict:
        """Read ``img_path``, or decode ``img_bytes``."""
        as_released = self.color_type != 'color'
        content = results.pop('img_bytes', None)
        if content is None:
            ours = (self.backend_args or {}).get('backend') == IMAGE_BACKEND
            backend_args = None if ours else self.backend_args
            img = read_image(results['img_path'], as_released, backend_args=backend_args)
        else:
            img = decode_image(content, results['img_path'], as_released)
        if self.to_float32:
            img = img.astype(np.float32)
        results['img'] = img
        results['img_shape'] = img.shape[:2]
        results['ori_shape'] = img.shape[:2]
        return results


LoadImageFromFile = FiberLoadImage


def resized_shape(height: int, width: int, short: int, max_long: int | None) -> tuple[int, int]:
    """The size that the original gives an image.

    The short side becomes ``short``, or less where the long side would pass ``max_long``; the
    long side is rounded down. Images so long that the short side would vanish keep one pixel.

    Args:
        height, width: Pixels of the image.
        short: Wanted short side.
        max_long: Greatest long side; None for no limit.

    Returns:
        (height, width).
    """
    low, high = min(height, width), max(height, width)
    if max_long is not None and high / low * short > max_long:
        short = round(max_long * low / high)
    if short == low:
        return height, width
    if short < 1:
        long = max_long
        short = 1
    else:
        long = int(short * high / low)
    return (long, short) if height > width else (short, long)


@TRANSFORMS.register_module()
class FiberResize(BaseTransform):
    """Resize with Pillow's antialiased bilinear filter and the original's size rule.

    Required Keys: img; optional gt_bboxes, gt_masks
    Modified Keys: the same, img_shape
    Added Keys: scale (w, h), scale_factor (w, h), keep_ratio

    Args:
        short: Short side in pixels, or several to draw one from for each image.
        max_long: Greatest long side in pixels; None for no limit.
    """

    def __init__(self, short: int | Sequence[int] = 800, max_long: int | None = 1333) -> None:
        self.shorts = [short] if isinstance(short, int) else list(short)
        self.max_long = max_long
        if not self.shorts or min(self.shorts) < 1:
            raise ValueError(f'short must be one or more positive numbers, got {short!r}')
        if max_long is not None and max_long < 1:
            raise ValueError(f'max_long must be positive or None, got {max_long}')

    @autocast_box_type()
    def transform(self, results: dict) -> dict:
        """Resize the image and its boxes."""
        img = results['img']
        height, width = img.shape[:2]
        short = self.shorts[0]
        if len(self.shorts) > 1:
            short = self.shorts[np.random.randint(len(self.shorts))]
        new_height, new_width = resized_shape(height, width, short, self.max_long)
        if (new_height, new_width) != (height, width):
            results['img'] = _resize(img, new_height, new_width)
        factor = (new_width / width, new_height / height)
        results['img_shape'] = (new_height, new_width)
        results['scale'] = (new_width, new_height)
        results['scale_factor'] = factor
        results['keep_ratio'] = True
        if results.get('gt_bboxes') is not None:
            results['gt_bboxes'].rescale_(factor)
        if results.get('gt_masks') is not None:
            results['gt_masks'] = results['gt_masks'].resize((new_height, new_width))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(short={self.shorts}, max_long={self.max_long})'


def _resize(img: np.ndarray, height: int, width: int) -> np.ndarray:
    if img.dtype != np.uint8:
        raise TypeError(f'FiberResize wants an uint8 image, got {img.dtype}: leave to_float32 out')
    resized = Image.fromarray(img).resize((width, height), Image.Resampling.BILINEAR)
    return np.array(resized)
