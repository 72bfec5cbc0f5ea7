import pytest
from tool_loader import load_tool

from fiber_mm.ablation import VARIANTS


@pytest.fixture(scope='module')
def tool():
    return load_tool('ablations')


def test_what_to_measure_is_read(tool):
    settings, report_only = tool.parse_args([])
    assert settings.variants == tuple(VARIANTS)
    assert settings.seeds == (0, 1, 2)
    assert not report_only
    argv = ['--variants', 'coarse', 'scratch', '--seeds', '3', '--fine-steps', '9']
    argv += ['--cfg-options', 'shapes.splits.val=9', '--report-only']
    settings, report_only = tool.parse_args(argv)
    assert report_only
    assert settings.variants == ('scratch', 'coarse')
    assert settings.seeds == (3,)
    assert settings.cfg_options == {'shapes.splits.val': 9}
    # The command that it writes down is the same again.
    words = settings.command().split()
    assert words[:2] == ['python', 'tools/ablations.py']
    assert tool.parse_args(words[2:])[0] == settings


def test_unknown_variants_are_refused(tool, capsys):
    with pytest.raises(SystemExit):
        tool.parse_args(['--variants', 'gate_shut'])
    assert 'choose from scratch, coarse' in capsys.readouterr().err


def test_a_document_without_numbers(tool, tmp_path):
    argv = ['--report-only', '--work-dir', str(tmp_path / 'none')]
    tool.main([*argv, '--report', str(tmp_path / 'results.md')])
    assert 'Not measured yet' in (tmp_path / 'results.md').read_text()
