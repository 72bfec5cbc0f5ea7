import pytest
import torch

from fiber_mm import get_config
from fiber_mm.convert import to_original, to_ours
from fiber_mm.convert.arch import BASE, free_sizes
from fiber_mm.convert.layout import FAMILIES as ALL
from fiber_mm.convert.layout import layout
from fiber_mm.registry import MODELS

from . import helpers


@pytest.mark.parametrize('family', helpers.FAMILIES)
def test_layout_is_the_manifest(family):
    content = helpers.manifest(family)
    tensors = content['tensors'] | content.get('huge_derived', {})
    shapes = {key: tuple(spec['shape']) for key, spec in tensors.items()}
    entries = layout(family, free_sizes(shapes))

    assert entries.keys() == tensors.keys()
    assert ALL[family].container == content['container']
    for key, entry in entries.items():
        assert entry.derived == (tensors[key]['role'] == 'derived'), key
        assert entry.shape in (None, shapes[key]), key
        assert bool(entry.ours) != bool(entry.reason), key


def test_our_keys_are_unique():
    for family in ALL:
        ours = [entry.ours for entry in layout(family, BASE).values() if entry.ours]
        assert len(ours) == len(set(ours))


@pytest.mark.parametrize(
    ('family', 'config'),
    [
        ('coarse_retrieval_itc', 'retrieval/fiber_swin-b_itc_8xb32-acc4_10e_coco'),
        ('coarse_retrieval_itm', 'retrieval/fiber_swin-b_itm_8xb8-acc16_10e_coco'),
    ],
)
def test_released_retrieval_files_fit_the_shipped_configs(family, config):
    state = helpers.full_size(family)
    converted = to_ours(state)
    assert converted.report.family == family
    cfg = get_config(config).model
    cfg.data_preprocessor = None
    with torch.device('meta'):
        model = MODELS.build(cfg)
    assert _parameters(model) == {k: tuple(v.shape) for k, v in converted.state_dict.items()}
    back = to_original(converted.state_dict, converted.unused).state_dict
    for key, spec in helpers.manifest(family)['tensors'].items():
        if spec['role'] == 'param':
            assert back[key].equal(state[key]), key


def _parameters(model):
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


@pytest.mark.parametrize(
    ('family', 'config', 'change'),
    [
        ('fine', 'fiber_swin-b_grounding', {}),
        ('fine_refexp', 'fiber_swin-b_grounding', {'backbone.fusion.norm_i2t_query': True}),
        ('coarse_pretrain', 'fiber_swin-b_coarse', {}),
        ('coarse_retrieval_itc', 'fiber_swin-b_coarse', {'parts': ('itc',)}),
        ('coarse_retrieval_itm', 'fiber_swin-b_coarse', {'parts': ('fused', 'itm')}),
        ('coarse_init', 'fiber_swin-b_coarse', {'parts': ()}),
    ],
)
def test_our_keys_are_those_of_the_shipped_model(family, config, change):
    from mmengine.config import Config

    path = helpers.DATA.parents[2] / 'configs' / '_base_' / 'models' / f'{config}.py'
    cfg = Config.fromfile(path)
    cfg.merge_from_dict({f'model.{key}': value for key, value in change.items()})
    cfg.model.data_preprocessor = None
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    wanted = {entry.ours: entry.shape for entry in layout(family, BASE).values() if entry.ours}
    assert _parameters(model) == wanted
