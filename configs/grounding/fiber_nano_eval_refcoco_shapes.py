# A trained FIBER-nano on referring expressions of Shapes, as on RefCOCO in
# fiber_swin-b_finetune_16xb1_20e_refcoco.py: is the best box the one that is meant (GIoU 0.5)?
#
#     python tools/test.py configs/grounding/fiber_nano_eval_refcoco_shapes.py WEIGHTS.pth
_base_ = './fiber_nano_eval_flickr30k_shapes.py'
model = dict(test_cfg=dict(score_thr=0.0))  # an answer is always wanted
test_dataloader = dict(dataset=dict(ann_file='annotations/finetune_refcoco_val.json'))
test_evaluator = dict(_delete_=True, type='FiberRefExpMetric')
