import importlib.util
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tool():
    path = ROOT / 'tools' / 'convert_checkpoint.py'
    spec = importlib.util.spec_from_file_location('convert_checkpoint', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'tests'))
    from test_convert.helpers import tiny

    yield tiny
    sys.modules.pop('test_convert', None)


def test_convert(tool, tiny, tmp_path, capsys):
    source, target = tmp_path / 'a.ckpt', tmp_path / 'b.pth'
    torch.save({'model': tiny('fine')}, source)
    assert tool.main([str(source), str(target), '--any-size']) == 0
    assert 'bbox_head.bias0' in torch.load(target, weights_only=True)['state_dict']
    text = ''.join(capsys.readouterr())
    assert 'family fine' in text
    assert 'closed-set classifier' in text
    assert tool.main([str(target), str(tmp_path / 'c.ckpt'), '--to', 'original']) == 0


def test_refusal_is_an_exit_code(tool, tmp_path, capsys):
    missing = tmp_path / 'none.pth'
    assert tool.main([str(missing), str(tmp_path / 'b.pth')]) == 1
    assert f'there is no checkpoint {missing}' in ''.join(capsys.readouterr())
