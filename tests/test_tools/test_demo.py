import pytest
from tool_loader import load_tool

from fiber_mm.demo.settings import TARGETS


@pytest.fixture(scope='module')
def demo():
    return load_tool('demo')


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


def test_the_whole_demo(demo, tmp_path, monkeypatch, capsys):
    asked = []

    def run(settings):
        asked.append(settings)
        scores = dict(zip(TARGETS, (0.9, None, 0.5, 0.1)))
        reached = dict(zip(TARGETS, (True, False, False, False)))
        names = ('itc/TR@1', 'itc/IR@1', 'itm_rerank/TR@1', 'itm_rerank/IR@1', 'chance')
        coarse = dict(retrieval=dict.fromkeys(names, 0.25), heatmaps={})
        return dict(scores, reached=reached, coarse=coarse)

    monkeypatch.setattr(demo, 'run_demo', run)
    options = ['--steps', '5', '--coarse-steps', '3', '--processes', '1', '--seed', '4', '--resume']
    demo.main(['--work-dir', str(tmp_path), *options])
    (settings,) = asked
    assert (settings.work_dir, settings.steps, settings.coarse_steps) == (tmp_path, 5, 3)
    assert (settings.processes, settings.seed, settings.resume) == (1, 4, True)
    printed = capsys.readouterr().out
    assert '0.900   target 0.80 reached' in printed
    assert 'undefined   target 0.50 not reached' in printed
    assert str(settings.report) in printed


def test_own_images(demo, tmp_path, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(demo, 'load_model', lambda *args: 'the model')

    def ground(*args):
        asked.extend(args)
        found = [dict(score=0.5, name='cat', box=[1, 2, 3, 4])]
        return [dict(image='a.jpg', text='a cat', detections=found, picture='a.png')]

    monkeypatch.setattr(demo, 'ground_files', ground)
    demo.main(['--work-dir', str(tmp_path), '--image', 'a.jpg', '--text', 'a cat', '--classes'])
    assert asked[:4] == ['the model', ['a.jpg'], ['a cat'], tmp_path / 'own']
    assert asked[5] is True
    printed = capsys.readouterr().out
    assert "a.jpg, 'a cat': 1 boxes, a.png" in printed
    assert '0.50  cat  [1, 2, 3, 4]' in printed


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
