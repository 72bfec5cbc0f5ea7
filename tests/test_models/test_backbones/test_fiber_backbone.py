"""Dictionaries to encoders, and encoders as mmdet's backbones."""

import pytest
import torch

from fiber_mm.core import FiberCfg, FusionCfg, RobertaCfg, SwinCfg
from fiber_mm.models.backbones.fiber_backbone import dataclass_from_dict
from fiber_mm.registry import MODELS

SWIN = dict(embed_dim=8, depths=(1, 1, 2, 1), num_heads=(1, 2, 2, 4), window_size=4)
ROBERTA = dict(
    vocab_size=50,
    hidden_size=16,
    num_layers=3,
    num_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
)
FUSION = dict(num_blocks=2, gate_init=0.5)


def backbone(**settings):
    return MODELS.build(dict(type='FiberBackbone', **{'swin': SWIN, **settings})).eval()


def test_dictionaries_become_settings():
    model = backbone(roberta=ROBERTA, fusion=FUSION, with_cp=True)
    wanted = FiberCfg(SwinCfg(**SWIN), RobertaCfg(**ROBERTA), FusionCfg(**FUSION), True)
    assert model.encoder.cfg == wanted
    assert dataclass_from_dict(SwinCfg, None) == SwinCfg()


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(swin=dict(SWIN, windw_size=4)), "SwinCfg.*'windw_size'.*'window_size'"),
        (dict(roberta=dict(ROBERTA, hidden=16)), "RobertaCfg.*'hidden'"),
        (
            dict(roberta=ROBERTA, fusion=dict(num_block=2)),
            "FusionCfg.*'num_block'.*'num_blocks'",
        ),
    ],
)
def test_a_mistyped_key_names_the_nearest(settings, message):
    with pytest.raises(TypeError, match=message):
        backbone(**settings)


@pytest.mark.parametrize('indices', [(1, 2, 3), (0, 3), (2,)])
def test_out_indices(indices):
    model = backbone(out_indices=indices)
    maps = model(torch.randn(2, 3, 64, 96))
    assert [m.shape[1] for m in maps] == model.out_channels == [8 * 2**i for i in indices]
    sizes = [(16 // 2**i, 24 // 2**i) for i in indices]
    assert [tuple(m.shape[2:]) for m in maps] == sizes


@pytest.mark.parametrize('indices', [(), (4,), (-1, 2)])
def test_bad_out_indices(indices):
    with pytest.raises(ValueError, match=r'0\.\.3'):
        backbone(out_indices=indices)


def test_without_text_there_are_no_text_and_no_fusion_parameters():
    model = backbone(fusion=FUSION)
    names = [name for name, _ in model.named_parameters()]
    assert all(name.startswith('encoder.image.') for name in names)
    assert not any('i2t' in name for name in names)
    assert model.encoder.cfg.fusion.num_blocks == 0
    # Parts that are not handed on are not missing in the backward either.
    sum(m.square().sum() for m in model(torch.randn(1, 3, 64, 64))).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_gates_shut_gives_the_maps_of_the_image_side():
    """A fused backbone that is called without text is the plain backbone with its weights."""
    fused, plain = backbone(roberta=ROBERTA, fusion=FUSION), backbone()
    result = plain.load_state_dict(fused.state_dict(), strict=False)
    assert not result.missing_keys
    images = torch.randn(2, 3, 50, 70)
    for a, b in zip(fused(images), plain(images)):
        torch.testing.assert_close(a, b)


def test_text_changes_the_fused_maps():
    model = backbone(roberta=ROBERTA, fusion=FUSION)
    image = model.encoder.image_trunk(torch.randn(1, 3, 64, 64))
    ids = torch.tensor([[0, 7, 9, 2]])
    maps, features = model.fuse(image, model.encoder.text_trunk(ids, ids != 1))
    others, _ = model.fuse(image, model.encoder.text_trunk(ids + 3, ids != 1))
    assert torch.equal(maps[0], others[0])  # stage 1 has no fused block
    assert not torch.allclose(maps[2], others[2])
    assert features.text_tokens.shape == (1, 4, 16)


def test_frozen_stages_stay_as_they_are():
    model = backbone(swin=dict(SWIN, frozen_stages=2, drop_path_rate=0.2)).train()
    frozen = ('encoder.image.patch_embed.', 'encoder.image.layers.0.', 'encoder.image.layers.1.')
    for name, param in model.named_parameters():
        assert param.requires_grad != name.startswith(frozen), name
    assert not model.encoder.image.layers[1].training
    assert model.encoder.image.layers[2].training


def test_recomputing_changes_no_gradient():
    plain = backbone(roberta=ROBERTA, fusion=FUSION)
    frugal = backbone(roberta=ROBERTA, fusion=FUSION, with_cp=True)
    frugal.load_state_dict(plain.state_dict())
    images = torch.randn(1, 3, 48, 48)
    for model in (plain, frugal):
        # In training mode, where blocks are recomputed; dropout is left out.
        for module in model.train().modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        sum(m.square().sum() for m in model(images)).backward()
    for a, b in zip(plain.encoder.image.parameters(), frugal.encoder.image.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def test_weights_of_a_checkpoint(tmp_path):
    """``init_cfg`` takes the backbone out of a detector's checkpoint."""
    source = backbone()
    weights = {f'backbone.{key}': value for key, value in source.state_dict().items()}
    path = tmp_path / 'detector.pth'
    torch.save({'state_dict': weights}, path)
    init = dict(type='Pretrained', checkpoint=str(path), prefix='backbone.')
    model = backbone(init_cfg=init)
    model.init_weights()
    for key, value in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value)
