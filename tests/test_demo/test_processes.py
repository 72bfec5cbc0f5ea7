"""A config shared by processes."""

import pytest

from fiber_mm.config_lookup import get_config
from fiber_mm.demo.processes import shared
from fiber_mm.demo.settings import CONFIG, DemoSettings


def test_processes_share_the_batch():
    cfg = get_config(CONFIG)
    two = shared(cfg, 2)
    assert two.launcher == 'pytorch'
    for name in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert two[name].batch_size * 2 == cfg[name].batch_size
        assert (two[name].num_workers, two[name].persistent_workers) == (0, False)
    one = shared(cfg, 1)
    assert one.pretty_text == cfg.pretty_text


def test_uneven_shares_are_refused():
    with pytest.raises(ValueError, match='cannot be shared by 3 processes'):
        shared(get_config(CONFIG), 3)


def test_the_machine_decides_how_many(monkeypatch):
    monkeypatch.setattr('torch.cuda.is_available', lambda: False)
    for cores, count in ((1, 1), (2, 2), (3, 2), (4, 4), (64, 4)):
        monkeypatch.setattr('fiber_mm.demo.settings.available_cores', lambda cores=cores: cores)
        assert DemoSettings().process_count == count
    assert DemoSettings(processes=1).process_count == 1
    monkeypatch.setattr('torch.cuda.is_available', lambda: True)
    assert DemoSettings().process_count == 1
    with pytest.raises(ValueError, match='at least 1'):
        DemoSettings(processes=0)
