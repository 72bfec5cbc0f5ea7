# A trained FIBER-nano on the long tail of Shapes (texture, colour and shape), as
# fiber_swin-b_zeroshot_lvis-minival.py on LVIS: prompts of 40 classes, fixed AP.
#
#     python tools/test.py configs/grounding/fiber_nano_eval_lvis_shapes.py WEIGHTS.pth
_base_ = './fiber_nano_1xb8_demo_shapes.py'
model = dict(
    data_preprocessor=dict(chunk_size=40), test_cfg=dict(joint_chunks=False, max_per_img=300)
)
tta_model = dict(tta_cfg=dict(max_per_img=300))
minival = 'annotations/lvis_v1_val.json'
test_dataloader = dict(
    dataset=dict(type='FiberLVISDataset', ann_file=minival, data_prefix=dict(img=''))
)
test_evaluator = dict(type='FiberLVISFixedAPMetric', ann_file=_base_.data_root + minival)
