# Phrase grounding by heatmaps of nano pre-training on Shapes, which has seen no box:
#
#     python tools/make_shapes.py data/shapes_captions --split train=6000,val=1000
#     python tools/test.py configs/grounding/fiber_nano_heatmap_shapes.py WEIGHTS.pth
#
# WEIGHTS.pth are those of configs/pretrain/fiber_nano_1xb32_1k_shapes.py. The maps are those of
# words looking at the image in the first fused pair, where the image has 6 x 6 cells; in the last
# it has 3 x 3. The gradient-weighted ones: --cfg-options model.method=gradient model.blocks=all
# model.direction=both. Reported are the pointing game and boxes made of the maps, each beside what
# chance reaches: docs/heatmaps.md.
_base_ = [
    '../_base_/models/fiber_nano_pretrain.py',
    '../_base_/coarse_runtime.py',
]
data_root = 'data/shapes_captions/'
shapes = dict(splits=dict(train=6000, val=1000), seed=0, image_size=256)

model = dict(
    _delete_=True,
    type='FiberHeatmapModel',
    model=_base_.model,
    method='attention',
    blocks=[0],
    direction='t2i',
)
test_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberMDETRDataset',
        data_root=data_root,
        ann_file='annotations/final_flickr_separateGT_val.json',
        data_prefix=dict(img='val/'),
        test_mode=True,
        pipeline=[
            dict(type='FiberLoadImage'),
            dict(type='FiberSquareResize', size=96),
            dict(type='FiberPackInputs'),
        ],
    ),
)
test_evaluator = dict(type='FiberHeatmapMetric')
test_cfg = dict(type='TestLoop')
