import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).parents[2] / 'tools' / 'demo.py'


@pytest.fixture(scope='module')
def demo():
    spec = importlib.util.spec_from_file_location('demo_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_spans_are_read(demo):
    args = demo.parse_args(
        ['--image', 'a.jpg', '--text', 'a cat', '--tokens-positive', '[[[0, 5]]]']
    )
    assert args.tokens_positive == [[[0, 5]]]
    assert args.image == ['a.jpg']
    assert args.text == ['a cat']


def test_both_stages_by_default_and_their_lengths(demo):
    args = demo.parse_args([])
    assert args.coarse_steps > 0
    assert args.steps is None
    args = demo.parse_args(['--coarse-steps', '7', '--steps', '9'])
    assert (args.coarse_steps, args.steps) == (7, 9)


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        (['--image', 'a.jpg'], '--image and --text belong together'),
        (['--text', 'cat'], '--image and --text belong together'),
        (['--checkpoint', 'a.pth'], 'need --image and --text'),
        (['--image', 'a', '--text', 'b', '--tokens-positive', '[['], 'is no JSON'),
        (
            ['--image', 'a', '--text', 'b', '--text', 'c', '--tokens-positive', '[[[0, 1]]]'],
            'spans of one text',
        ),
        (
            ['--image', 'a', '--text', 'b', '--classes', '--tokens-positive', '[[[0, 1]]]'],
            'exclude each other',
        ),
        (['--steps', '0'], '--steps must be 1 or more, got 0'),
        (['--coarse-steps', '-1'], '--coarse-steps must be 0 or more, got -1'),
    ],
)
def test_contradictions_are_refused(demo, argv, message, capsys):
    with pytest.raises(SystemExit):
        demo.parse_args(argv)
    assert message in capsys.readouterr().err


def test_without_a_demo_it_says_what_to_do(demo, tmp_path):
    argv = ['--work-dir', str(tmp_path), '--image', 'a.jpg', '--text', 'red circle .']
    with pytest.raises(SystemExit, match='make demo'):
        demo.main(argv)


def test_an_unknown_config_is_named(demo, tmp_path):
    with pytest.raises(SystemExit, match='no config.*fiber_nano_1xb8_demo_shapes'):
        demo.main(['--work-dir', str(tmp_path), '--config', 'fiber_nano_1xb8_demo_shape'])
