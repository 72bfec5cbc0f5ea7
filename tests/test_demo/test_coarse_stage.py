"""The coarse stage of the demo."""

import dataclasses
import json

import pytest

from fiber_mm.config_lookup import get_config
from fiber_mm.demo.coarse import check_resumed, coarse_config
from fiber_mm.demo.coarse_report import Search
from fiber_mm.demo.settings import CONFIG, DemoSettings, StepRecord
from fiber_mm.engine import ConfigError, load_checkpoint_file


def test_the_coarse_config_gets_the_data_of_the_fine_one(tmp_path):
    settings = DemoSettings(work_dir=tmp_path, seed=7, coarse_steps=10)
    fine = get_config(CONFIG)
    fine.data_root = 'elsewhere/'
    fine.model.data_preprocessor.tokenizer = 'elsewhere/words'
    cfg = coarse_config(settings, fine)
    dataset = cfg.train_dataloader.dataset
    assert dataset.data_root == 'elsewhere/'
    assert dataset.pipeline[2].tokenizer == 'elsewhere/words'
    assert cfg.model.data_preprocessor.tokenizer == 'elsewhere/words'
    assert 'data/shapes' not in json.dumps(cfg._cfg_dict)
    assert cfg.randomness.seed == 7
    assert cfg.train_cfg.max_iters == 10
    assert cfg.get('val_dataloader') is None


def test_another_coarse_stage_is_no_resumption(tmp_path):
    settings = DemoSettings(work_dir=tmp_path, resume=True, coarse_steps=0)
    record = StepRecord(tmp_path / 'steps.json', fresh=True)
    check_resumed(dataclasses.replace(settings, coarse_steps=5), record)  # nothing was begun
    record.finish('train', 1.0, {})
    check_resumed(settings, record)
    with pytest.raises(ConfigError, match='begun with 0 coarse steps.*--coarse-steps 0'):
        check_resumed(dataclasses.replace(settings, coarse_steps=5), record)
    settings.coarse_dir.mkdir()
    settings.coarse_model_config.write_text('train_cfg = dict(max_iters=5)')
    check_resumed(dataclasses.replace(settings, coarse_steps=5), record)
    with pytest.raises(ConfigError, match='begun with 5 coarse steps'):
        check_resumed(settings, record)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match='coarse_steps must be 0 or more, got -1'):
        DemoSettings(coarse_steps=-1)
    with pytest.raises(ValueError, match='steps must be at least 1, got 0'):
        DemoSettings(steps=0)


def test_places_of_a_search():
    assert Search('a star', 7, [3, 7], [2.0, 1.0], 5).place == 2
    assert Search('a star', 9, [3, 7], [2.0, 1.0], 5).place == 5


@pytest.mark.slow
def test_coarse_to_fine(finished):
    settings, metrics = finished
    coarse = metrics['coarse']
    assert coarse['training']['iterations'] == 2
    retrieval, maps = coarse['retrieval'], coarse['heatmaps']
    assert (retrieval['images'], retrieval['chance']) == (10, 0.1)
    assert retrieval['captions'] == 50
    for protocol in ('itc', 'itm_rerank'):
        assert 0 <= retrieval[f'{protocol}/TR@1'] <= 1
        assert 0 <= retrieval[f'{protocol}/IR@1'] <= 1
    assert 0 < maps['pointing_chance'] < 1
    html = settings.report.read_text()
    assert coarse['training']['config'] == settings.coarse_config
    assert f'{100 * maps["box_recall@0.5"]:.1f} %' in html
    for title in (
        'The box around it overlaps',
        'Before any box',
        'Images that a caption finds',
        'Phrases seen without boxes',
    ):
        assert title in html

    # The fine stage starts from the coarse weights: windows of 6 tokens became windows of 5.
    before = load_checkpoint_file(settings.coarse_checkpoint)['state_dict']
    start = load_checkpoint_file(settings.checkpoint)['state_dict']
    name = 'layers.0.blocks.0.attn.relative_position_bias_table'
    assert before[f'encoder.image.{name}'].shape == (121, 2)
    assert start[f'backbone.encoder.image.{name}'].shape == (81, 2)
    assert coarse['training']['start']['resized'] == 6
    log = next(settings.coarse_train_dir.glob('*/*.log')).read_text()
    assert 'loss_mlm' in log
    log = next(settings.train_dir.glob('*/*.log')).read_text()
    assert f'Load checkpoint from {settings.coarse_checkpoint}' in log
    assert 'window 6 -> 5' in log
