# LVIS minival (5,000 images) with the pre-trained weights: 1,203 classes in 31 prompts, fixed AP.
# For LVIS val 1.0 change ann_file of test_dataloader and test_evaluator to lvis_v1_val.json.
#
#     python tools/test.py configs/grounding/fiber_swin-b_zeroshot_lvis-minival.py WEIGHTS.pth
#
# Expected with the released weights (FIBER, arXiv 2206.07643): AP 35.8.
_base_ = [
    '../_base_/models/fiber_swin-b_grounding.py',
    '../_base_/datasets/lvis_detection.py',
    '../_base_/default_runtime.py',
]
# The original keeps 300 boxes of each prompt's 40 classes and 1,000 candidates a level, without a
# limit for all prompts together. Here prompts compete, so the limits are the sums of theirs.
model = dict(
    data_preprocessor=dict(chunk_size=40), test_cfg=dict(nms_pre=31_000, max_per_img=9_300)
)
