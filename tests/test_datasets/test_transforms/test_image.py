"""Reading and resizing images."""

import struct

import numpy as np
import pytest
from mmcv.transforms import Compose
from mmdet.structures.bbox import HorizontalBoxes
from PIL import Image, PngImagePlugin

from fiber_mm.datasets.transforms.image import (
    FiberLoadImage,
    FiberResize,
    UnreadableImageError,
    read_image,
    resized_shape,
)
from fiber_mm.registry import TRANSFORMS

RED, BLUE = (255, 0, 0), (0, 0, 255)  # RGB


def two_halves(mode='RGB', size=(8, 4)):
    """Left half red, right half blue."""
    image = Image.new('RGB', size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def save(image, path, **options):
    image.save(path, **options)
    return str(path)


def test_colour_images_are_bgr(tmp_path):
    path = save(two_halves(), tmp_path / 'a.png')
    img = read_image(path)
    assert img.shape == (4, 8, 3)
    assert img.dtype == np.uint8
    assert img[0, 0].tolist() == [0, 0, 255]
    assert img[0, -1].tolist() == [255, 0, 0]


def test_exif_rotation(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn clockwise
    path = save(two_halves(), tmp_path / 'a.png', exif=exif)
    seen = read_image(path)
    assert seen.shape == (8, 4, 3)
    assert seen[0, 0].tolist() == [0, 0, 255]  # the red left side is now on top
    assert seen[-1, 0].tolist() == [255, 0, 0]
    assert read_image(path, as_released=True).shape == (4, 8, 3)


def entries(*rows):
    """EXIF data of entries (tag, type, count, four bytes), which Pillow would not write."""
    body = b''.join(struct.pack('<HHI', *row[:3]) + row[3] for row in rows)
    return b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(rows)) + body + bytes(4)


UPRIGHT = (0x0112, 3, 1, struct.pack('<HH', 6, 0))


@pytest.mark.parametrize(
    ('exif', 'turned'),
    [
        (entries(UPRIGHT), True),
        (entries(UPRIGHT, (0x011A, 2, 4, b'abc\0')), True),  # XResolution as a text
        (entries((0x0100, 2, 4, b'abc\0'), UPRIGHT), True),  # ImageWidth as a text
        (entries((0x0112, 2, 2, b'6\0\0\0')), False),  # Orientation as a text
        (entries(UPRIGHT)[:14], False),
    ],
    ids=['sound', 'resolution', 'width', 'orientation', 'cut'],
)
@pytest.mark.filterwarnings('ignore:Corrupt EXIF data')
def test_malformed_exif(tmp_path, exif, turned):
    """An orientation that can be read counts; without one the image is as it is stored."""
    path = save(two_halves(size=(32, 16)), tmp_path / 'a.jpg', exif=exif)
    assert read_image(path).shape == ((32, 16, 3) if turned else (16, 32, 3))


def test_exif_that_cannot_be_read(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text('Raw profile type exif', '\nexif\n 4\nno hexadecimal number')
    path = save(two_halves(), tmp_path / 'a.png', pnginfo=info)
    assert read_image(path).shape == (4, 8, 3)


@pytest.mark.parametrize('error', [TypeError('no text'), KeyError(1), MemoryError(), IndexError()])
@pytest.mark.parametrize('where', ['open', 'convert'])
def test_whatever_decoding_raises_names_the_file(tmp_path, monkeypatch, error, where):
    path = save(two_halves(), tmp_path / 'a.png')

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(Image if where == 'open' else Image.Image, where, fail)
    with pytest.raises(UnreadableImageError, match=rf'a\.png .*damaged.*{type(error).__name__}'):
        read_image(path)


@pytest.mark.parametrize('mode', ['L', '1', 'P', 'CMYK', 'YCbCr'])
def test_colour_modes(tmp_path, mode):
    name = 'a.jpg' if mode in ('CMYK', 'YCbCr') else 'a.png'
    options = {'quality': 100, 'subsampling': 0} if name.endswith('jpg') else {}
    img = read_image(save(two_halves(mode, (32, 16)), tmp_path / name, **options))
    expected = np.asarray(two_halves(mode, (32, 16)).convert('RGB'))[:, :, ::-1]
    assert img.shape == (16, 32, 3)
    assert np.abs(img[8, [4, 28]].astype(int) - expected[8, [4, 28]]).max() <= 4


@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P'])
def test_transparent_is_white_paper(tmp_path, mode):
    image = Image.new('RGBA', (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    if mode == 'P':
        image = Image.new('P', (2, 1))
        image.putpalette([10, 20, 30, 0, 0, 0])
        image.putpixel((1, 0), 1)
        path = save(image, tmp_path / 'a.png', transparency=0)
    else:
        path = save(image.convert(mode), tmp_path / 'a.png')
    assert read_image(path)[0].tolist() == [[255, 255, 255], [0, 0, 0]]
    assert read_image(path, as_released=True)[0, 0].tolist() != [255, 255, 255]


def test_16_bits_are_scaled(tmp_path):
    values = np.array([[0, 257 * 100, 65535]], dtype=np.uint16)
    path = save(Image.fromarray(values), tmp_path / 'a.png')
    assert read_image(path)[0, :, 0].tolist() == [0, 100, 255]
    path = save(Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)), tmp_path / 'a.tif')
    assert read_image(path)[0, :, 0].tolist() == [0, 128, 255]


def test_faulty_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'no image file .*missing\.jpg'):
        read_image(str(tmp_path / 'missing.jpg'))
    with pytest.raises(ValueError, match='is a folder'):
        read_image(str(tmp_path))
    empty = tmp_path / 'empty.jpg'
    empty.touch()
    with pytest.raises(ValueError, match=r'empty\.jpg is empty'):
        read_image(str(empty))
    text = tmp_path / 'text.jpg'
    text.write_text('not an image at all')
    with pytest.raises(ValueError, match=r'text\.jpg .* is no image'):
        read_image(str(text))


@pytest.mark.parametrize('suffix', ['jpg', 'png', 'gif', 'bmp'])
def test_truncated_files(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / f'a.{suffix}'
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf'a\.{suffix}'):
        read_image(str(path))


def test_load_transform(tmp_path):
    path = save(two_halves(), tmp_path / 'a.png')
    results = TRANSFORMS.build({'type': 'FiberLoadImage'})({'img_path': path})
    assert results['img_shape'] == results['ori_shape'] == (4, 8)
    same = TRANSFORMS.build({'type': 'fiber_mm.datasets.LoadImageFromFile'})
    assert isinstance(same, FiberLoadImage)
    with pytest.raises(ValueError, match='color_type'):
        FiberLoadImage(color_type='grayscale')


@pytest.mark.parametrize(
    ('size', 'expected'),
    [  # height, width -> by hand from the rule
        ((480, 640), (800, 1066)),  # int(800 * 640 / 480 = 1066.67)
        ((360, 640), (750, 1333)),  # short = round(1333 * 360 / 640 = 749.8)
        ((640, 360), (1333, 750)),
        ((800, 1000), (800, 1000)),
        ((1, 1), (800, 800)),
        ((20, 8000), (3, 1200)),  # short = round(3.33), long = 3 * 400
        ((1, 80000), (1, 1333)),  # one pixel is kept
    ],
)
def test_size_rule(size, expected):
    assert resized_shape(*size, 800, 1333) == expected


def test_no_limit():
    assert resized_shape(100, 1000, 200, None) == (200, 2000)


def test_resize_moves_boxes():
    img = np.zeros((50, 100, 3), np.uint8)
    img[:, 50:] = 255
    results = FiberResize(short=100)(
        {'img': img, 'gt_bboxes': HorizontalBoxes(np.array([[10.0, 5, 60, 49]], np.float32))}
    )
    assert results['img'].shape == (100, 200, 3)
    assert results['img_shape'] == (100, 200)
    assert results['scale_factor'] == (2.0, 2.0)
    assert results['gt_bboxes'].tensor.tolist() == [[20, 10, 120, 98]]
    assert results['img'][50, 20].tolist() == [0, 0, 0]
    assert results['img'][50, 180].tolist() == [255, 255, 255]


def test_several_short_sides():
    np.random.seed(0)  # noqa: NPY002
    transform = FiberResize(short=(16, 24, 32))
    heights = {transform({'img': np.zeros((40, 40, 3), np.uint8)})['img_shape'] for _ in range(40)}
    assert heights == {(16, 16), (24, 24), (32, 32)}


@pytest.mark.parametrize('size', [(1, 1), (1, 8000), (8000, 20)])
def test_extreme_images(tmp_path, size):
    path = save(Image.new('RGB', size, RED), tmp_path / 'a.png')
    pipeline = Compose([FiberLoadImage(), FiberResize()])
    results = pipeline({'img_path': path})
    assert min(results['img'].shape[:2]) >= 1
    assert max(results['img'].shape[:2]) <= 1333
    assert results['img'].reshape(-1, 3).mean(0).tolist() == [0, 0, 255]


def test_faulty_resize():
    with pytest.raises(ValueError, match='short must be'):
        FiberResize(short=[])
    with pytest.raises(ValueError, match='max_long'):
        FiberResize(max_long=0)
    with pytest.raises(TypeError, match='uint8'):
        FiberResize(short=4)({'img': np.zeros((2, 2, 3), np.float32)})
