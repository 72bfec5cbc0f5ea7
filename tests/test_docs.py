"""What the documents name exists, and the commands that they give can be given."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tool_loader import load_tool

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])
CONFIGS = sorted(ROOT.glob('configs/**/*.py'))

if not DOCUMENTS:
    pytest.skip('not in a source tree', allow_module_level=True)


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_tests_exist(path):
    text = path.read_text()
    code = ''.join(p.read_text() for p in (ROOT / 'tests').rglob('test_*.py'))
    lost = [n for n in re.findall(r'::(?:\w+::)?(test_\w+)', text) if f'def {n}(' not in code]
    assert not lost
    files = [str(p.relative_to(ROOT)) for p in (ROOT / 'tests').rglob('test_*.py')]
    named = re.findall(r'`(?:\.\.\.)?([\w/]*test_\w+\.py)', text)
    assert not [name for name in named if not any(file.endswith(name) for file in files)]


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_links_exist(path):
    targets = re.findall(r'\]\(([^)#\s]+)(?:#[^)]*)?\)', path.read_text())
    local = [target for target in targets if '://' not in target]
    assert not [target for target in local if not (path.parent / target).exists()]


# An option with brackets that is not in quotes: a syntax error in bash, or a pattern.
UNQUOTED = re.compile(r"""(?<![\w.'"])[a-z_]\w*(?:\.\w+)+=[(\[]""")


@pytest.mark.parametrize('path', [*DOCUMENTS, *CONFIGS], ids=lambda path: path.name)
def test_options_with_brackets_are_quoted(path):
    lines = path.read_text().splitlines()
    if path.suffix == '.py':
        lines = [line for line in lines if line.startswith('#')]
    assert not [line for line in lines if UNQUOTED.search(line)]


def test_unquoted_brackets_are_found():
    assert UNQUOTED.search("`model.losses=('itc','itm')`")
    assert UNQUOTED.search('--cfg-options a.b.c=[1,2]')
    assert not UNQUOTED.search("""`"model.losses=('itc','itm')"`, Cls(a=(1,)), a.b=c""")


def commands(path):
    """Calls of our tools in the code blocks of a document, as lists of words."""
    fences = re.findall(r'^ *```(\w*)\n(.*?)^ *```$', path.read_text(), re.S | re.M)
    blocks = [block.replace('\\\n', ' ') for kind, block in fences if kind in ('', 'bash')]
    lines = [line for block in blocks for line in block.splitlines()]
    called = [line for line in lines if re.search(r'\btools/(?:train|test)\.py', line)]
    return [(line, shlex.split(line, comments=True)) for line in called]


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_commands_survive_the_shell_and_are_understood(path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tools set it
    for line, words in commands(path):
        if shutil.which('bash'):
            subprocess.run(['bash', '-n', '-c', line], check=True)
        place = next(i for i, word in enumerate(words) if word.startswith('tools/t'))
        args = load_tool(words[place][len('tools/') : -len('.py')]).parse_args(words[place + 1 :])
        if args.config.startswith('configs/'):
            assert (ROOT / args.config).is_file(), line
        for value in (args.cfg_options or {}).values():
            assert not (isinstance(value, str) and set(value) & set('()[]')), line


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: path.name)
def test_quoted_options_become_lists(path, monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')
    for option in re.findall(r"""(?<!')"([\w.]+=[(\[][^"]*)"(?!')""", path.read_text()):
        args = load_tool('test').parse_args(['CONFIG', 'WEIGHTS', '--cfg-options', option])
        (value,) = args.cfg_options.values()
        assert isinstance(value, (list, tuple)), option
        assert all(word.isidentifier() for word in value), value


def test_there_are_commands():
    found = {path.name: len(commands(path)) for path in DOCUMENTS}
    assert all(found[f'{name}.md'] > 2 for name in ('finetune', 'pretrain', 'retrieval'))
