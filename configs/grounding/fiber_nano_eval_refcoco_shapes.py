# A trained FIBER-nano on referring expressions of Shapes, as on RefCOCO in
# fiber_swin-b_finetune_16xb1_20e_refcoco.py: is the best box the one that is meant (GIoU 0.5)?
#
#     python tools/test.py configs/grounding/fiber_nano_eval_refcoco_shapes.py WEIGHTS.pth
_base_ = './fiber_nano_1xb8_demo_shapes.py'
model = dict(test_cfg=dict(score_thr=0.0))  # an answer is always wanted
test_dataloader = dict(
    batch_size=5,  # texts of one image
    batch_sampler=dict(type='FiberSameImageBatchSampler'),
    dataset=dict(
        _delete_=True,
        type='FiberMDETRDataset',
        data_root=_base_.data_root,
        ann_file='annotations/finetune_refcoco_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_evaluator = dict(_delete_=True, type='FiberRefExpMetric')
# Two sizes instead of mirror images: "the left one" must stay on the left.
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='FiberResize', short=short, max_long=None) for short in (160, 192)],
            [_base_.pack],
        ],
    ),
]
