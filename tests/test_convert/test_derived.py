import numpy as np
import torch

from fiber_mm.convert import BASE
from fiber_mm.convert.derived import derived_buffer

from .helpers import DATA, manifest


def test_cell_anchors_are_the_first_anchors_of_the_goldens():
    arrays = np.load(DATA / 'golden_fine_head_single.npz')
    for level in range(5):
        anchor = derived_buffer(f'rpn.anchor_generator.cell_anchors.{level}', BASE)
        np.testing.assert_array_equal(anchor[0].numpy(), arrays[f'anchors.{level}'][0])


def test_shift_mask_separates_regions():
    mask = derived_buffer('vit_model.layers.2.blocks.1.attn_mask', BASE)
    assert mask.shape == tuple(
        manifest('coarse_pretrain')['tensors']['vit_model.layers.2.blocks.1.attn_mask']['shape']
    )
    assert (mask[0] == 0).all()  # the first window holds one region only
    last = mask[-1].view(12, 12, 12, 12)
    assert last[0, 0, 5, 5] == 0
    assert last[0, 0, 6, 6] == -100
    assert set(mask.unique().tolist()) == {-100.0, 0.0}


def test_positions_count_up_and_queues_are_left_out():
    ids = derived_buffer('text_transformer.embeddings.position_ids', BASE)
    assert torch.equal(ids, torch.arange(514)[None])
    assert derived_buffer('image_queue', BASE) is None
