# Shapes: detection, captions and referring expressions in one batch; evaluated on detection with
# all 48 classes, captions and expressions (the demo evaluates all three, training detection only).
_base_ = '../tta.py'
data_root = 'data/shapes/'
tokenizer = data_root + 'tokenizer'
shapes = dict(splits=dict(train=6000, val=500), seed=0, image_size=256)

load_image = dict(
    type='fiber_mm.datasets.LoadImageFromFile', backend_args=dict(backend='fiber_image')
)
load_boxes = [
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='FiberInclusiveBoxes'),
]
train_resize = dict(type='FiberResize', short=160, max_long=266)
pack = dict(type='FiberPackInputs')
detection_pipeline = [
    load_image,
    *load_boxes,
    train_resize,
    dict(type='RandomFlip_GLIP', prob=0.5),
    dict(type='FiberPrompt', tokenizer=tokenizer, num_negatives=9, full_prob=0.25),
    pack,
]
# Every class is named, as in the evaluation.
vocabulary_pipeline = [
    *detection_pipeline[:-2],
    dict(type='FiberPrompt', tokenizer=tokenizer, num_negatives=None),
    pack,
]
caption_pipeline = [
    load_image,
    *load_boxes,
    train_resize,
    dict(type='FiberPrompt', tokenizer=tokenizer),
    pack,
]
test_pipeline = [load_image, dict(type='FiberResize', short=192, max_long=320), pack]
tta_pipeline = [
    *test_pipeline[:-1],
    dict(type='TestTimeAug', transforms=[_base_.mirrored, [pack]]),
]

detection = dict(
    type='FiberODVGDataset',
    data_root=data_root,
    ann_file='annotations/train_od.jsonl',
    label_map_file='annotations/label_map.json',
    data_prefix=dict(img='train/'),
)
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='FiberInfiniteSampler'),
    dataset=dict(
        type='ConcatDataset',
        ignore_keys=['classes'],
        datasets=[
            dict(
                type='RepeatDataset',
                times=4,  # with the next, as many samples as there are captions and expressions
                dataset=dict(detection, pipeline=detection_pipeline),
            ),
            dict(
                type='RepeatDataset',
                times=2,
                dataset=dict(detection, pipeline=vocabulary_pipeline),
            ),
            dict(
                type='FiberODVGDataset',
                data_root=data_root,
                ann_file='annotations/train_vg.jsonl',
                data_prefix=dict(img='train/'),
                indices=18000,
                pipeline=caption_pipeline,
            ),
            dict(
                type='FiberODVGDataset',
                data_root=data_root,
                ann_file='annotations/train_refexp_vg.jsonl',
                data_prefix=dict(img='train/'),
                pipeline=caption_pipeline,
            ),
        ],
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        indices=100,  # for the curve; the final evaluation takes all
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='FiberCocoMetric', ann_file=data_root + 'annotations/instances_val.json')
test_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberCocoDataset',
        data_root=data_root,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='FiberCocoMetric', ann_file=data_root + 'annotations/instances_val.json')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
