import pytest
import torch

from fiber_mm.registry import MODELS

CONFIG = dict(
    type='FiberMultimodal',
    swin=dict(
        embed_dim=8,
        depths=(1, 1, 2, 2),
        num_heads=(1, 1, 2, 2),
        window_size=2,
        shift_single_window=False,
        output_norms=(),
        final_norm=True,
    ),
    roberta=dict(
        vocab_size=30,
        hidden_size=12,
        num_layers=4,
        num_heads=2,
        intermediate_size=16,
        max_position_embeddings=18,
    ),
    fusion=dict(num_blocks=3, norm_i2t_query=True, fused_text_norm=False, gate_init=0.5),
    joint_dim=10,
)


@pytest.fixture
def model():
    return MODELS.build(CONFIG).eval()


@pytest.fixture
def batch():
    ids = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
    return torch.randn(2, 3, 64, 64), ids, ids != 1


def test_joint_features(model, batch):
    joint = model(*batch)
    assert joint.text.shape == (2, 4, 10)
    assert joint.image.shape == (2, 4, 10)
    assert joint.pooled.shape == (2, 20)
    # Text first, from token 0; the image from the average.
    first = torch.tanh(model.cross_modal_text_pooler.dense(joint.text[:, 0]))
    average = torch.tanh(model.cross_modal_image_pooler.dense(joint.image.mean(1)))
    torch.testing.assert_close(joint.pooled, torch.cat([first, average], 1))
    assert model.mlm_score(joint.text).shape == (2, 4, 30)
    assert model.itm_score(joint.pooled).shape == (2, 2)


def test_fused_features_depend_on_the_other_side_and_contrast_does_not(model, batch):
    image, ids, mask = batch
    other = torch.randn_like(image)
    assert not torch.allclose(model(image, ids, mask).text, model(other, ids, mask).text)
    text = model.contrast_text(model.encoder.text_trunk(ids, mask))
    alone = model.contrast_image(model.encoder.image_trunk(image))
    assert text.tokens.shape == (2, 4, 10)
    torch.testing.assert_close(text.pooled.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(alone.pooled.norm(dim=1), torch.ones(2))


def test_text_padding_changes_nothing(model, batch):
    image, ids, mask = batch
    longer = torch.nn.functional.pad(ids, (0, 3), value=1)
    torch.testing.assert_close(
        model(image, ids, mask).pooled, model(image, longer, longer != 1).pooled
    )


def test_rank_head_starts_as_the_matching_class_and_is_frozen(model, batch):
    pooled = model(*batch).pooled
    torch.testing.assert_close(model.rank_scores(pooled), model.itm_score(pooled)[:, 1])
    assert not model.rank_output.weight.requires_grad


def test_parts():
    model = MODELS.build(dict(CONFIG, parts=('itc',)))
    assert hasattr(model, 'temp')
    assert not hasattr(model, 'mlm_score')
    assert not hasattr(model, 'cross_modal_text_transform')
    with pytest.raises(ValueError, match=r"unknown parts \['vqa'\]"):
        MODELS.build(dict(CONFIG, parts=('vqa',)))


def test_mistyped_setting_and_mode(model, batch):
    with pytest.raises(TypeError, match="did you mean 'window_size'"):
        MODELS.build(dict(CONFIG, swin=dict(windowsize=2)))
    with pytest.raises(ValueError, match="no mode 'loss'"):
        model(*batch, mode='loss')


def test_all_trained_parts_get_gradients(model, batch):
    joint = model.train()(*batch)
    image, text = model.encoder.image_trunk(batch[0]), model.encoder.text_trunk(*batch[1:])
    similarity = model.contrast_image(image).pooled @ model.contrast_text(text).pooled.t()
    total = (similarity / model.temp).sum() + model.mlm_score(joint.text).logsumexp(-1).sum()
    (total + model.itm_score(joint.pooled).pow(2).sum()).backward()
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing
