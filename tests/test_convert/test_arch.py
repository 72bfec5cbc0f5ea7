from dataclasses import replace

import pytest

from fiber_mm.convert.arch import BASE, common_window, free_sizes, infer
from fiber_mm.convert.layout import layout

from . import helpers


@pytest.mark.parametrize('arch', [BASE, helpers.TINY], ids=['base', 'tiny'])
@pytest.mark.parametrize('family', ['coarse_pretrain', 'coarse_vqa', 'fine'])
def test_infer_reads_every_size(arch, family):
    shapes = {e.ours: e.shape for e in layout(family, arch).values() if e.ours}
    prefix = 'backbone.encoder.' if family == 'fine' else 'encoder.'
    found = infer(shapes, f'{prefix}image.', f'{prefix}text.')
    # What a family does not hold stays at the default.
    if family == 'fine':
        arch = replace(arch, joint_dim=BASE.joint_dim, logit_classes=BASE.logit_classes)
    else:
        arch = replace(
            arch,
            fpn_dim=BASE.fpn_dim,
            tower=BASE.tower,
            levels=BASE.levels,
            logit_classes=BASE.logit_classes,
        )
    if family != 'coarse_vqa':
        arch = replace(arch, answers=BASE.answers)
    assert found == arch


def test_common_window_is_the_one_of_most_tables():
    shapes = {f'{i}.relative_position_bias_table': (529, 4) for i in range(3)}
    shapes['x.relative_position_bias_table'] = (1225, 4)
    assert common_window(shapes) == 12
    assert common_window({'x.relative_position_bias_table': (528, 4)}) is None
    assert common_window({}) is None


def test_free_sizes_leave_the_rest_fixed():
    shapes = {
        'a.relative_position_bias_table': (1225, 4),
        'vqa_classifier.3.weight': (10, 1536),
        'vit_model.patch_embed.proj.weight': (64, 3, 4, 4),
    }
    arch = free_sizes(shapes)
    assert (arch.window, arch.answers, arch.embed_dim) == (18, 10, 128)
