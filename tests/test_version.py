"""Check of the host packages' versions."""

import pytest

from fiber_mm import version
from fiber_mm.version import check_host_versions


def test_installed_set_is_supported():
    found = check_host_versions()
    assert set(found) == set(version.HOST_PACKAGES)
    assert all(found.values())


def test_all_problems_in_one_message():
    packages = {
        'torch': (('torch',), '99', '100'),
        'mmengine': (('onedl-mmengine', 'mmengine'), '0.1', '0.2'),
        'mmabsent': (('onedl-mmabsent', 'mmabsent'), '1', '2'),
        'numpy': (('numpy',), '1', '99'),
    }
    with pytest.raises(ImportError) as error:
        check_host_versions(packages)
    message = str(error.value)
    assert 'torch is 2.' in message
    assert 'wanted: torch >=99,<100' in message
    assert 'mmengine is 0.10' in message
    assert 'mmabsent is not installed (wanted: onedl-mmabsent >=1,<2)' in message
    assert 'numpy' not in message
    assert 'pip install -r requirements/runtime.txt' in message


@pytest.mark.parametrize(
    ('text', 'key'),
    [
        ('2.10.0', (2, 10)),
        ('2.10.0+cu128', (2, 10)),
        ('3.5.1', (3, 5, 1)),
        ('2.0.0rc4', (2,)),
        ('0.10.8rc1', (0, 10, 8)),
        ('2.11.0a0+git123', (2, 11)),
        ('4', (4,)),
    ],
)
def test_order_of_versions(text, key):
    assert version._key(text) == key


def test_ten_is_above_nine():
    assert version._key('0.10.12') > version._key('0.9')
