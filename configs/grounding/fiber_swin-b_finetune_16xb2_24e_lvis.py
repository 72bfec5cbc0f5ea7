# LVIS v1 fine-tuning from the pre-trained weights: 16 GPUs of 2 images, 24 epochs of the 99,388
# images with boxes; the rest is that of COCO.
#
#     torchrun --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_finetune_16xb2_24e_lvis.py --launcher pytorch \
#         --cfg-options load_from=PRETRAINED.pth
#
# Expected (FIBER, arXiv 2206.07643): fixed AP 56.9 on minival.
_base_ = ['./fiber_swin-b_zeroshot_lvis-minival.py', '../_base_/schedules/finetune.py']
model = dict(
    backbone=dict(with_cp=True, swin=dict(frozen_stages=-1)),
    bbox_head=dict(with_checkpoint=True),
)
iterations = 24 * 99388 // 32
# 31 prompts for each of 5,000 images: at the end only.
train_cfg = dict(max_iters=iterations, val_interval=iterations)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=2000, by_epoch=False),
    dict(
        type='MultiStepLR',
        milestones=[round(0.67 * iterations), round(0.89 * iterations)],
        gamma=0.1,
        by_epoch=False,
    ),
]
