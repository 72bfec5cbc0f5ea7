import pytest

from fiber_mm.ablation.variants import (
    VARIANTS,
    Variant,
    check_names,
    coarse_name,
)


def test_variants_are_compared_with_variants_that_are_there():
    assert len({variant.title for variant in VARIANTS.values()}) == len(VARIANTS)
    for variant in VARIANTS.values():
        assert not variant.against or variant.against in VARIANTS


def test_no_two_variants_are_the_same():
    definitions = [variant.definition() for variant in VARIANTS.values()]
    assert all(definitions.count(definition) == 1 for definition in definitions)


@pytest.mark.parametrize(
    ('name', 'coarse'),
    [
        ('scratch', None),
        ('scratch_gates_open', None),
        ('coarse', 'coarse'),
        ('gates_shut', 'coarse'),
        ('gates_kept', 'coarse'),
        ('random_negatives', 'random_negatives'),
        ('no_itc', 'no_itc'),
        ('gates_from_zero', 'gates_from_zero'),
        ('ungated', 'ungated'),
        ('blocks_4', 'blocks_4'),
    ],
)
def test_which_coarse_checkpoint_a_variant_starts_from(name, coarse):
    assert coarse_name(name) == coarse


def test_names_are_checked_and_sorted():
    assert check_names(['coarse', 'scratch', 'coarse']) == ('scratch', 'coarse')
    with pytest.raises(ValueError, match="no variants \\['coarze'\\]; choose from scratch"):
        check_names(['coarze'])
    with pytest.raises(ValueError, match='no variants chosen'):
        check_names([])


def test_settings_of_a_coarse_stage_need_one():
    with pytest.raises(ValueError, match='settings of a coarse stage'):
        Variant('x', 'losses', '', from_coarse=False, coarse={'model.losses': ['itc']})
    with pytest.raises(ValueError, match='unknown group'):
        Variant('x', 'loss', '')
