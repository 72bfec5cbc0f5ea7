"""Several data sets with one pipeline."""

import pytest

from fiber_mm.config_lookup import get_config
from fiber_mm.registry import DATASETS, init_default_scope

PART = dict(type='BaseDetDataset', serialize_data=False)
PIPELINE = [dict(type='LoadImageFromFile')]
RESIZE = [dict(type='RandomFlip', prob=0.0)]


def steps(dataset):
    return [type(step).__name__ for step in dataset.pipeline.transforms]


def test_parts_without_a_pipeline_get_the_shared_one(tmp_path):
    init_default_scope('mmdet')
    (tmp_path / 'a.json').write_text('{"metainfo": {}, "data_list": [{"img_path": "a"}]}')
    part = dict(PART, ann_file=str(tmp_path / 'a.json'))
    repeated = dict(type='RepeatDataset', times=3, dataset=dict(part, pipeline=RESIZE))
    concat = dict(type='FiberConcatDataset', datasets=[part, dict(part, pipeline=RESIZE)])
    both = DATASETS.build(dict(concat, pipeline=PIPELINE))
    assert [steps(d) for d in both.datasets] == [['LoadImageFromFile'], ['RandomFlip']]
    wrapped = DATASETS.build(dict(concat, datasets=[part, repeated], pipeline=PIPELINE))
    assert len(wrapped) == 4
    assert steps(wrapped.datasets[1].dataset) == ['RandomFlip']


@pytest.mark.parametrize(
    'name', ['fiber_swin-b_eval_flickr30k', 'fiber_swin-b_finetune_16xb1_20e_refcocog']
)
def test_no_annotations_are_needed_before_they_are_asked_for(name):
    """As ``DetInferencer`` builds the test set of a config."""
    init_default_scope('mmdet')
    dataset = DATASETS.build(dict(get_config(name).test_dataloader.dataset, lazy_init=True))
    assert len(dataset.datasets) == 2
    assert dataset.metainfo.get('palette') is None
    with pytest.raises(FileNotFoundError, match='no annotation file'):
        dataset.full_init()
