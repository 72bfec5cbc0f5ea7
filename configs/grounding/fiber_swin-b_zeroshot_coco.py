# COCO val2017 with the pre-trained weights, no COCO box seen: 80 classes in one prompt.
#
#     python tools/test.py configs/grounding/fiber_swin-b_zeroshot_coco.py WEIGHTS.pth
#
# Expected with the released weights (FIBER, arXiv 2206.07643): AP 49.3.
_base_ = [
    '../_base_/models/fiber_swin-b_grounding.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/default_runtime.py',
]
