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
# As in the original each prompt of 40 classes keeps its own 1,000 candidates a level and its own
# 300 boxes; there is no limit for all prompts together.
model = dict(
    data_preprocessor=dict(chunk_size=40), test_cfg=dict(joint_chunks=False, max_per_img=300)
)
