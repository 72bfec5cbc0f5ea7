import pytest
import torch
from safetensors.torch import save_file
from test_convert.helpers import roberta, swin, tiny
from tool_loader import load_tool


@pytest.fixture
def tool():
    return load_tool('convert_checkpoint')


def weights(path):
    return torch.load(path, weights_only=True)['state_dict']


def test_convert(tool, tmp_path, capsys):
    source, target = tmp_path / 'a.ckpt', tmp_path / 'b.pth'
    torch.save({'model': tiny('fine')}, source)
    assert tool.main([str(source), str(target), '--any-size']) == 0
    assert 'bbox_head.bias0' in torch.load(target, weights_only=True)['state_dict']
    text = ''.join(capsys.readouterr())
    assert 'family fine' in text
    assert 'closed-set classifier' in text
    assert tool.main([str(target), str(tmp_path / 'c.ckpt'), '--to', 'original']) == 0


def test_swin_and_roberta_start_an_encoder(tool, tmp_path, capsys):
    torch.save({'model': swin()}, tmp_path / 'swin.pth')
    save_file(roberta(), tmp_path / 'model.safetensors')
    argv = [tmp_path / 'swin.pth', tmp_path / 'start.pth', '--with', tmp_path / 'model.safetensors']
    assert tool.main([*map(str, argv), '--init', 'encoder', '--window', '3']) == 0
    start = weights(tmp_path / 'start.pth')
    assert {key.split('.')[1] for key in start} == {'image', 'text'}
    assert {len(start[key]) for key in start if key.endswith('bias_table')} == {25}
    assert 'window 2 -> 3' in ''.join(capsys.readouterr())


def test_coarse_weights_start_a_detector(tool, tmp_path):
    torch.save(tiny('coarse_init'), tmp_path / 'coarse.ckpt')
    argv = [tmp_path / 'coarse.ckpt', tmp_path / 'start.pth', '--init', 'fine', '--window', 3]
    assert tool.main([*map(str, argv), '--any-size']) == 0
    start = weights(tmp_path / 'start.pth')
    assert all(key.startswith('backbone.encoder.') for key in start)
    assert {len(start[key]) for key in start if key.endswith('bias_table')} == {25}


def test_the_average_of_the_weights_and_allowed_keys(tool, tmp_path, capsys):
    state = tiny('fine')
    average = {key: value + 1 for key, value in state.items()}
    del average['rpn.head.bias0']
    torch.save({'model': state, 'model_ema': average}, tmp_path / 'a.pth')
    argv = [str(tmp_path / 'a.pth'), str(tmp_path / 'b.pth'), '--any-size', '--family', 'fine']
    assert tool.main([*argv, '--ema']) == 1
    assert f'{argv[0]}: the checkpoint does not match' in ''.join(capsys.readouterr())
    assert tool.main([*argv, '--ema', '--ignore', 'bias0']) == 0
    key = 'bbox_head.centerness.bias'
    ema = weights(tmp_path / 'b.pth')[key]
    assert tool.main(argv) == 0
    assert torch.equal(ema, weights(tmp_path / 'b.pth')[key] + 1)


def test_refusal_is_an_exit_code(tool, tmp_path, capsys):
    missing = tmp_path / 'none.pth'
    assert tool.main([str(missing), str(tmp_path / 'b.pth')]) == 1
    assert f'there is no checkpoint {missing}' in ''.join(capsys.readouterr())
