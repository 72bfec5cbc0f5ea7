# RefCOCO: one box for an expression; never flipped, aspect-ratio groups as everywhere; 16 GPUs
# of 1 image. RefCOCO+ and RefCOCOg differ in the names of the files.
_base_ = './fiber_pipelines.py'
data_root = 'data/coco/'

# Two sizes instead of mirror images: "the left one" must stay on the left.
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='FiberResize', short=short, max_long=1333) for short in (640, 800)],
            [_base_.pack],
        ],
    ),
]
train_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='FiberInfiniteSampler'),
    batch_sampler=dict(type='FiberAspectRatioBatchSampler'),
    dataset=dict(
        type='FiberMDETRDataset',
        data_root=data_root,
        ann_file='mdetr_annotations/finetune_refcoco_train.json',
        data_prefix=dict(img='train2014/'),
        pipeline=_base_.expression_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=5,  # texts of one image
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=dict(type='FiberSameImageBatchSampler'),
    dataset=dict(
        type='FiberMDETRDataset',
        data_root=data_root,
        ann_file='mdetr_annotations/finetune_refcoco_val.json',
        data_prefix=dict(img='train2014/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
val_evaluator = dict(type='FiberRefExpMetric')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
