import json

import pytest

from fiber_mm.ablation import write_report
from fiber_mm.ablation.campaign import CampaignError
from fiber_mm.ablation.report import cell, difference
from fiber_mm.ablation.runs import FINE_SCORES, scores_of
from fiber_mm.ablation.settings import write_json
from fiber_mm.ablation.variants import VARIANTS


def note(settings, name, seed, value):
    """The file of a finished run, with one value for all scores."""
    write_json(
        settings.result(name, seed),
        dict(variant=VARIANTS[name].definition(), scores=dict.fromkeys(scores_of(name), value)),
    )


def row(text, title):
    """The first row of a table that begins with a title."""
    line = next(line for line in text.splitlines() if line.startswith(f'| {title} |'))
    return [entry.strip() for entry in line.strip('|').split('|')]


def test_entries_of_the_tables():
    seeds = (0, 1, 2)
    assert cell({0: 0.1, 1: 0.2, 2: 0.3}, seeds) == '0.200 ± 0.100'
    assert cell({0: 0.1, 2: 0.3}, seeds) == '0.200 ± 0.141 (2 of 3 seeds)'
    assert cell({1: 0.25}, seeds) == '0.250 (1 of 3 seeds)'
    assert cell({1: 0.25}, (1,)) == '0.250 (1 seed)'
    assert cell({0: 0.1, 1: None, 2: 0.3}, seeds) == '0.200 ± 0.141 (1 undefined)'
    assert cell({0: None}, (0,)) == 'undefined'
    assert cell({}, seeds) == 'missing'
    assert cell(None, seeds) == '–'


def test_differences_are_of_the_same_seeds():
    # Seed by seed 0.1 and 0.2; seed 2 has no partner.
    assert difference({0: 0.3, 1: 0.5, 2: 0.9}, {0: 0.2, 1: 0.3}) == '**+0.150 ± 0.071**'
    assert difference({0: 0.3, 1: 0.2}, {0: 0.2, 1: 0.3}) == '+0.000 ± 0.141'
    assert difference({0: 0.1}, {0: 0.3}) == '-0.200'
    assert difference({0: 0.1}, {1: 0.3}) == 'missing'
    assert difference({0: 0.1}, {0: None}) == 'missing'
    assert difference({0: 0.1}, None) == '–'


def test_what_is_missing_is_said(toy):
    settings = toy(variants=('scratch', 'coarse', 'no_itm'))
    for seed in (0, 1, 2):
        note(settings, 'scratch', seed, 0.1 * seed)
    note(settings, 'coarse', 1, 0.4)
    path = write_report(settings)
    text = path.read_text()
    assert '**Finished:** 4 of 9 runs; the others are marked as missing.' in text
    assert all(len(line) <= 100 for line in text.splitlines() if not line.startswith('|'))
    assert row(text, 'fine stage from scratch')[1:] == ['0.100 ± 0.100'] * 4 + ['–'] * 4
    one = '0.400 (1 of 3 seeds)'
    assert row(text, 'fine stage from the coarse checkpoint')[1:] == [one] * 8
    assert row(text, 'without matching (ITM)')[1:] == ['missing'] * 6 + ['–'] * 2
    differences = text[text.index('## Differences') :]
    found = row(differences, 'fine stage from the coarse checkpoint')
    assert found[1:] == ['fine stage from scratch'] + ['+0.300'] * 4 + ['–'] * 4
    assert 'Differences smaller than the spread say nothing' in ' '.join(text.split())
    assert path.with_suffix('.png').read_bytes().startswith(b'\x89PNG')
    assert path.with_suffix('.png').name in text


def test_without_numbers_there_are_none(toy):
    settings = toy()
    text = write_report(settings).read_text()
    assert '**Not measured yet.**' in text
    assert '±' not in text
    assert '](results_shapes.png)' not in text
    assert not settings.report.with_suffix('.png').exists()
    for name in VARIANTS:
        assert f'`{name}`' in text


def test_the_same_numbers_give_the_same_document(toy):
    settings = toy(variants=('scratch', 'coarse'))
    note(settings, 'scratch', 0, 0.5)
    path = write_report(settings)
    before = path.read_bytes(), path.with_suffix('.png').read_bytes()
    write_report(settings)
    assert before == (path.read_bytes(), path.with_suffix('.png').read_bytes())


def test_numbers_of_another_variant_of_the_name_are_refused(toy):
    settings = toy(variants=('scratch',))
    note(settings, 'scratch', 0, 0.5)
    content = json.loads(settings.result('scratch', 0).read_text())
    content['variant']['encoder'] = {'fusion.num_blocks': 1}
    write_json(settings.result('scratch', 0), content)
    with pytest.raises(CampaignError, match="variant 'scratch' was something else"):
        write_report(settings)


def test_a_broken_file_is_named(toy):
    settings = toy(variants=('scratch',))
    settings.result('scratch', 0).parent.mkdir(parents=True)
    settings.result('scratch', 0).write_text('{"scores": ')
    with pytest.raises(ValueError, match='scratch_seed0.json is no JSON'):
        write_report(settings)


def test_undefined_scores_are_kept_as_undefined(toy):
    settings = toy(variants=('scratch',), seeds=(0,))
    note(settings, 'scratch', 0, None)
    text = write_report(settings).read_text()
    assert row(text, 'fine stage from scratch')[1:5] == ['undefined'] * len(FINE_SCORES)
