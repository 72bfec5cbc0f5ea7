# mmdet's RetinaNet on the image side of FIBER: FiberBackbone without `roberta` has no text and no
# fusion parameters, and goes wherever a backbone goes. Only `custom_imports` and the backbone
# differ from a stock config; data, neck, head, losses and metric are mmdet's.
#
#     python tools/train.py configs/detection/retinanet_fiber-nano_fpn_shapes.py
#
# The image side of a trained grounder is taken over by
#     init_cfg=dict(type='Pretrained', checkpoint='...', prefix='backbone.')
# in the backbone; what belongs to the text is then left out.
_base_ = '../_base_/default_runtime.py'
data_root = 'data/shapes/'
colours = ('red', 'orange', 'yellow', 'green', 'cyan', 'blue', 'purple', 'pink')
shapes = ('circle', 'ring', 'square', 'triangle', 'star', 'cross')
held_out = (
    'red star',
    'orange circle',
    'yellow square',
    'green cross',
    'cyan triangle',
    'blue ring',
    'purple circle',
    'pink triangle',
)
# In the order of the annotation files. The held-out classes are never seen in training.
names = [f'{colour} {shape}' for colour in colours for shape in shapes]
metainfo = dict(classes=(*[name for name in names if name not in held_out], *held_out))

model = dict(
    type='RetinaNet',
    data_preprocessor=dict(
        type='DetDataPreprocessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='FiberBackbone',
        swin=dict(
            embed_dim=32,
            depths=(1, 1, 4, 1),
            num_heads=(2, 4, 8, 16),
            window_size=8,
            init_std=None,
        ),
        out_indices=(1, 2, 3),
    ),
    neck=dict(type='FPN', in_channels=[64, 128, 256], out_channels=64, num_outs=4),
    bbox_head=dict(
        type='RetinaHead',
        num_classes=48,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator=dict(
            type='AnchorGenerator',
            octave_base_scale=2,  # Shapes objects are small
            scales_per_octave=3,
            ratios=[1.0],
            strides=[8, 16, 32, 64],
        ),
        bbox_coder=dict(
            type='DeltaXYWHBBoxCoder',
            target_means=[0.0, 0.0, 0.0, 0.0],
            target_stds=[1.0, 1.0, 1.0, 1.0],
        ),
        loss_cls=dict(type='FocalLoss', use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type='L1Loss', loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(
            type='MaxIoUAssigner',
            pos_iou_thr=0.5,
            neg_iou_thr=0.4,
            min_pos_iou=0,
            ignore_iof_thr=-1,
        ),
        sampler=dict(type='PseudoSampler'),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type='nms', iou_threshold=0.5),
        max_per_img=100,
    ),
)

train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations', with_bbox=True),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackDetInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 256), keep_ratio=True),
    dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor'),
    ),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    sampler=dict(type='FiberInfiniteSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_train.json',
        data_prefix=dict(img='train/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        data_root=data_root,
        metainfo=metainfo,
        ann_file='annotations/instances_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type='CocoMetric', ann_file=data_root + 'annotations/instances_val.json', metric='bbox'
)
test_evaluator = val_evaluator

train_cfg = dict(type='FiberIterTrainLoop', max_iters=6000, val_interval=1500)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=100, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=5900,
        begin=100,
        end=6000,
        eta_min_ratio=0.01,
        by_epoch=False,
    ),
]
randomness = dict(seed=0)
