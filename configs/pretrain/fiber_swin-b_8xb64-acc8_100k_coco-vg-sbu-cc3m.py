# Coarse pre-training as released, on one node: 8 GPUs add up eight parts of 512 pairs to a step of
# 4,096. Negatives come from the part, so there are fewer than on 64 GPUs.
#
#     torchrun --nproc_per_node 8 tools/train.py \
#         configs/pretrain/fiber_swin-b_8xb64-acc8_100k_coco-vg-sbu-cc3m.py --launcher pytorch \
#         --cfg-options load_from=start.pth
_base_ = './fiber_swin-b_64xb64_100k_coco-vg-sbu-cc3m.py'

parts = 8
iterations = 100_000 * parts  # mmengine counts, and schedules by, the parts
warmup = iterations // 10

train_cfg = dict(max_iters=iterations, val_interval=2500 * parts)
optim_wrapper = dict(accumulative_counts=parts)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-9, begin=0, end=warmup + 1, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=warmup, end=iterations + 1, by_epoch=False),
]
default_hooks = dict(logger=dict(interval=50 * parts), checkpoint=dict(interval=2500 * parts))
auto_scale_lr = dict(base_batch_size=4096 // parts)
