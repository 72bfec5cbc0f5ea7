"""What the documents name exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md')])

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
