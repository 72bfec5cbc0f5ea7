import pytest
import torch

from fiber_mm.convert import FAMILIES, ConversionError, file_hash, read_checkpoint
from fiber_mm.convert.files import convert_file, count_parameters, summary
from fiber_mm.version import __version__

from . import helpers
from .helpers import parameters, tiny


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('family', ['coarse_pretrain', 'coarse_caption', 'fine_refexp'])
def test_there_and_back(tmp_path, family, suffix):
    state = tiny(family)
    source, ours, back = tmp_path / 'a.ckpt', tmp_path / f'b{suffix}', tmp_path / 'c.ckpt'
    torch.save({FAMILIES[family].container: {f'module.{k}': v for k, v in state.items()}}, source)
    there = convert_file(source, ours, any_size=True)
    assert there.meta['family'] == family
    assert read_checkpoint(ours)['meta'] == there.meta | {
        'arch': _lists(there.meta['arch'], suffix)
    }
    assert there.meta['fiber_mm_version'] == __version__
    assert there.meta['sources'] == [{'name': 'a.ckpt', 'sha256': file_hash(source)}]

    convert_file(ours, back, to='original')
    again = torch.load(back, weights_only=True)[FAMILIES[family].container]
    for key, value in parameters(family, state).items():
        assert torch.equal(again[key], value), key


def _lists(arch, suffix):
    """JSON has no tuples."""
    listed = {k: list(v) if isinstance(v, tuple) else v for k, v in arch.items()}
    return listed if suffix == '.safetensors' else arch


def test_initial_weights_of_several_files(tmp_path):
    coarse, target = tmp_path / 'coarse.ckpt', tmp_path / 'start.pth'
    torch.save(tiny('coarse_init'), coarse)
    result = convert_file(coarse, target, init='fine', any_size=True)
    assert result.meta['initial_from'] == 'coarse_init'
    assert 'bbox_head.bias0' in result.report.fresh
    assert read_checkpoint(target)['state_dict'].keys() == result.state_dict.keys()


def test_refused_source_leaves_no_target(tmp_path):
    source, target = tmp_path / 'a.ckpt', tmp_path / 'b.pth'
    state = tiny('fine')
    state.pop('rpn.head.bias0')
    torch.save({'model': state}, source)
    with pytest.raises(ConversionError, match=r'missing  rpn\.head\.bias0'):
        convert_file(source, target, any_size=True)
    assert not target.exists()
    with pytest.raises(ConversionError, match='unknown direction'):
        convert_file(source, target, to='back')
    with pytest.raises(ConversionError, match='in our layout only'):
        convert_file(source, target, to='original', init='fine')
    with pytest.raises(ConversionError, match=r'window side \(18\) belongs to initial weights'):
        convert_file(source, target, any_size=True, window=18)
    assert not target.exists()


def test_a_lone_swin_starts_an_encoder_with_another_window(tmp_path):
    torch.save({'model': helpers.swin()}, tmp_path / 'swin.pth')
    result = convert_file(tmp_path / 'swin.pth', tmp_path / 'b.pth', any_size=True, window=3)
    tables = [v for k, v in result.state_dict.items() if k.endswith('bias_table')]
    assert {len(table) for table in tables} == {25}


def test_summary_counts_every_key():
    from fiber_mm.convert import to_ours

    report = to_ours(helpers.full_size('coarse_pretrain')).report
    counts = [int(cell) for cell in summary(report).columns[1].cells]
    assert sum(counts) == len(helpers.manifest('coarse_pretrain')['tensors'])


def test_count_parameters():
    assert count_parameters({'a': torch.zeros(2, 3), 'b': torch.zeros(4, dtype=torch.long)}) == 6
