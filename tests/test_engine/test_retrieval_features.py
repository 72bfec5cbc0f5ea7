"""One model's features pick what another re-ranks."""

import pytest
import torch
from tokenizer_fixture import tokenizer_dir  # noqa: F401

from fiber_mm.engine import CheckpointError

from . import toy_retrieval as toy
from .test_retrieval import config, data  # noqa: F401


@pytest.fixture
def features(config, tmp_path):  # noqa: F811
    """Features of the toy model, in a file."""
    path = tmp_path / 'new' / 'features.pth'
    config.test_cfg.update(protocols='itc', features_out=str(path))
    toy.evaluate(config)
    del config.test_cfg['features_out']
    return str(path)


def test_features_are_computed_without_gradients(config, tmp_path, monkeypatch):  # noqa: F811
    """They are asked for before any protocol; with gradients every block would keep a graph."""
    config.test_cfg.update(protocols='itc', features_out=str(tmp_path / 'features.pth'))
    runner, modes = toy.build(config), []
    for name in ('image_trunk', 'text_trunk'):
        verb = getattr(runner.model.encoder, name)
        monkeypatch.setattr(
            runner.model.encoder,
            name,
            lambda *args, verb=verb: modes.append(torch.is_grad_enabled()) or verb(*args),
        )
    runner.test()
    assert modes
    assert not any(modes)


def reranked(runner):
    return {key: value for key, value in runner.test().items() if key.startswith('itm_rerank/')}


def test_a_model_without_contrast_ranks_what_another_found(config, features):  # noqa: F811
    config.test_cfg.protocols = ('itc', 'itm_rerank')
    both = toy.build(config)
    weights = both.model.state_dict()
    wanted = reranked(both)

    config.test_cfg.update(protocols='itm_rerank', candidates_from=features)
    config.model.losses = ('itm',)
    runner = toy.build(config)
    assert not runner.model.has_contrast
    runner.model.load_state_dict({key: weights[key] for key in runner.model.state_dict()})
    assert reranked(runner) == wanted


def test_the_own_features_are_not_used(config, features):  # noqa: F811
    config.test_cfg.protocols = ('itc', 'itm_rerank')
    wanted = toy.evaluate(config)

    def other_contrast():
        runner = toy.build(config)
        with torch.no_grad():
            runner.model.cross_modal_image_pooler_itc.dense.weight.neg_()
        return runner.test()

    changed = other_contrast()
    config.test_cfg.candidates_from = features
    foreign = other_contrast()
    for key, value in wanted.items():
        assert foreign[key] == (value if 'rerank' in key else changed[key])
    assert any(changed[key] != value for key, value in wanted.items() if 'rerank' in key)


def test_faulty_files_are_refused(config, data, features, tmp_path):  # noqa: F811
    config.test_cfg.update(protocols='itm_rerank', candidates_from=str(tmp_path / 'none.pth'))
    with pytest.raises(FileNotFoundError, match='no features .*none.pth.*features_out='):
        toy.evaluate(config)
    torch.save(dict(state_dict={}), tmp_path / 'weights.pth')
    config.test_cfg.candidates_from = str(tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match=r"no file of features .*\['state_dict'\]"):
        toy.evaluate(config)
    rows = toy.write_data(data)
    toy.write_rows(data, rows[::-1])
    config.test_cfg.candidates_from = features
    with pytest.raises(CheckpointError, match='of 13 images .* 13 and .* in another order'):
        toy.evaluate(config)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(protocols='itc', candidates_from='x'), "for the protocol 'itm_rerank'"),
        (dict(protocols='itm', features_out='x'), "has none, add 'itc'"),
        (dict(protocols='itm_rerank', candidates_from='x', features_out='y'), "add 'itc'"),
    ],
)
def test_settings_that_do_not_go_together(config, settings, message):  # noqa: F811
    config.test_cfg.update(settings)
    with pytest.raises(ValueError, match=message):
        toy.build(config).test()
