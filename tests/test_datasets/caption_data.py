"""Small captioned images to write and read."""

import io

from PIL import Image


def jpeg(number, size=(20, 10)):
    """An image whose blue value, 200 in red, is its number."""
    file = io.BytesIO()
    Image.new('RGB', size, (200, 0, number)).save(file, 'PNG')
    return file.getvalue()


def number_of(sample):
    """The number of an image, from its packed pixels (BGR)."""
    return int(sample['inputs'][0].float().mean().round())


PIPELINE = [
    {'type': 'FiberLoadImage'},
    {'type': 'FiberSquareResize', 'size': 8},
    {'type': 'FiberPackImageText'},
]
