"""Packing of image-text samples."""

import numpy as np
import pytest
from mmpretrain.structures import DataSample

from fiber_mm.datasets.transforms.text import FiberPackImageText


def sample(**more):
    return {'img': np.zeros((4, 6, 3), np.uint8), 'text': 'a dog', 'img_path': 'a.jpg', **more}


def test_packs_a_pair():
    packed = FiberPackImageText()(sample(image_id=3, text_id=7, else_='gone'))
    assert packed['inputs'].shape == (3, 4, 6)
    assert isinstance(packed['data_samples'], DataSample)
    assert packed['data_samples'].text == 'a dog'
    assert packed['data_samples'].image_id == 3
    assert 'else_' not in packed['data_samples']
    assert 'mlm_ids' not in packed['data_samples']


def test_hidden_words_go_along():
    packed = FiberPackImageText()(sample(mlm_ids=np.arange(3), mlm_labels=np.arange(3)))
    assert packed['data_samples'].mlm_ids.tolist() == [0, 1, 2]


def test_names_what_is_missing():
    results = sample()
    del results['text']
    with pytest.raises(KeyError, match=r"a\.jpg has no \['text'\], only \['img', 'img_path'\]"):
        FiberPackImageText()(results)
    with pytest.raises(KeyError, match='img'):
        FiberPackImageText()({'text': 'a dog'})


def test_fields_of_other_tasks():
    packed = FiberPackImageText(algorithm_keys=['question'])({'question': 'what?', **sample()})
    assert packed['data_samples'].question == 'what?'
    assert 'text' not in packed['data_samples']
