# A trained FIBER-nano on the phrases of Shapes' captions, five an image, as
# fiber_swin-b_eval_flickr30k.py on those of Flickr30k Entities: R@1, 5, 10 at IoU 0.5, any box.
#
#     python tools/test.py configs/grounding/fiber_nano_eval_flickr30k_shapes.py WEIGHTS.pth
_base_ = './fiber_nano_1xb8_demo_shapes.py'
test_dataloader = dict(
    batch_size=5,  # texts of one image
    batch_sampler=dict(type='FiberSameImageBatchSampler'),
    dataset=dict(
        _delete_=True,
        type='FiberMDETRDataset',
        data_root=_base_.data_root,
        ann_file='annotations/final_flickr_separateGT_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
test_evaluator = dict(_delete_=True, type='FiberFlickr30kMetric')
# Two sizes instead of mirror images: "on the left" must stay there.
tta_pipeline = [
    _base_.load_image,
    dict(
        type='TestTimeAug',
        transforms=[
            [dict(type='FiberResize', short=short, max_long=320) for short in (160, 192)],
            [_base_.pack],
        ],
    ),
]
