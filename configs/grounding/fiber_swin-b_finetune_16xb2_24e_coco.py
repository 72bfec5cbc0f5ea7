# COCO fine-tuning from the pre-trained weights: 16 GPUs of 2 images, 24 epochs.
#
#     torchrun --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_finetune_16xb2_24e_coco.py --launcher pytorch \
#         --cfg-options load_from=PRETRAINED.pth
#
# Expected (FIBER, arXiv 2206.07643): AP 58.4 on val2017.
_base_ = [
    '../_base_/models/fiber_swin-b_grounding.py',
    '../_base_/datasets/coco_detection.py',
    '../_base_/schedules/finetune.py',
    '../_base_/default_runtime.py',
]
model = dict(
    # Activations are computed again in the backward pass: less memory, about a third more time.
    backbone=dict(with_cp=True, swin=dict(frozen_stages=-1)),
    bbox_head=dict(with_checkpoint=True),
)
