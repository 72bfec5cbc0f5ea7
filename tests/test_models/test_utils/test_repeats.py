"""Neighbours that are the same image share a trunk."""

import pytest
import torch
from mmdet.structures import DetDataSample

from fiber_mm.models.utils.repeats import encode_once
from fiber_mm.structures import ImageTrunk


class Encoder:
    """Tells images by their first pixel, and remembers how many it saw."""

    def __init__(self):
        self.seen = []

    def __call__(self, images):
        self.seen.append(len(images))
        first = images[:, :1, :1, :1]
        return ImageTrunk(first.expand(-1, 2, 2, 4), (first * 2,))


def samples(*paths):
    return [DetDataSample(metainfo={} if p is None else dict(img_path=p)) for p in paths]


@pytest.mark.parametrize(
    ('values', 'paths', 'encoded'),
    [
        ([1, 1, 1], 'aaa', 1),
        ([1, 1, 2, 2, 1], 'aabba', 3),  # only neighbours are looked at
        ([1, 2], 'ab', 2),
        ([1, 2], 'aa', 2),  # augmented in two ways
        ([1, 1], 'ab', 2),
        ([1, 1], [None, None], 2),
    ],
)
def test_shared_among_neighbours_of_equal_pixels(values, paths, encoded):
    images = torch.tensor(values, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 4, 4)
    encode = Encoder()
    trunk = encode_once(encode, images, samples(*paths))
    assert encode.seen == [encoded]
    assert trunk.tokens[:, 0, 0, 0].tolist() == values
    assert trunk.stage_maps[0].flatten().tolist() == [2 * v for v in values]
