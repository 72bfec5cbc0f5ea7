"""The text of a run's config is mmengine's, formatted once."""

from __future__ import annotations

import copy

import pytest
from mmengine.config import Config
from yapf.yapflib import yapf_api

from fiber_mm.engine import FiberRunner
from fiber_mm.engine.config_text import FormattedOnce

from . import toy_training as toy


@pytest.fixture
def formatted(monkeypatch) -> list[str]:
    """What was formatted."""
    texts = []

    def count(text, **_):
        texts.append(text)
        return f'# formatted\n{text}', True

    monkeypatch.setattr(yapf_api, 'FormatCode', count)
    monkeypatch.setattr(FormattedOnce, '_texts', {})
    return texts


def test_text_is_mmengines():
    cfg = Config(dict(model=dict(type='A', sizes=[1, (2, 3)]), seed=None, name='b c'))
    once = FormattedOnce.of(cfg)
    assert once.pretty_text == cfg.pretty_text
    assert Config.fromstring(once.dump(), '.py').to_dict() == cfg.to_dict()
    assert isinstance(copy.deepcopy(once), FormattedOnce)


def test_formatted_once_per_content(formatted):
    once = FormattedOnce.of(Config(dict(model=dict(type='A'))))
    texts = {once.pretty_text, once.dump(), copy.deepcopy(once).pretty_text}
    assert len(texts) == 1
    assert texts.pop().startswith('# formatted')
    assert len(formatted) == 1
    once.model.type = 'B'
    assert "type='B'" in once.pretty_text
    assert len(formatted) == 2


def test_unformatted_stays_so(formatted):
    once = FormattedOnce.of(Config(dict(a=1), format_python_code=False))
    assert once.pretty_text.strip() == 'a=1'
    assert not formatted


def test_a_run_formats_its_config_once(tmp_path, formatted):
    runner = FiberRunner.from_cfg(toy.config(tmp_path))
    assert isinstance(runner.cfg, FormattedOnce)
    runner.train()
    assert list(tmp_path.glob('iter_*.pth'))
    assert len(formatted) == 1
