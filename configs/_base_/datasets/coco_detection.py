# COCO 2017: all 80 classes in the prompt, shuffled in training; 16 GPUs of 2 images.
_base_ = './fiber_pipelines.py'
data_root = 'data/coco/'

train_pipeline = [
    _base_.load_image,
    _base_.load_boxes,
    _base_.inclusive_boxes,
    _base_.train_resize,
    _base_.flip,
    dict(type='FiberPrompt', tokenizer=_base_.tokenizer, num_negatives=None),
    _base_.pack,
]
train_dataloader = dict(
    batch_size=2,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='FiberInfiniteSampler'),
    batch_sampler=dict(type='FiberAspectRatioBatchSampler'),
    dataset=dict(
        type='FiberCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val2017.json',
        data_prefix=dict(img='val2017/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
val_evaluator = dict(
    type='FiberCocoMetric', ann_file=data_root + 'annotations/instances_val2017.json'
)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
