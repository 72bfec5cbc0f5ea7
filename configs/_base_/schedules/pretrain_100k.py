# Coarse pre-training: 100,000 steps of 4,096 pairs, AdamW 1e-5, the fusion's parts and the heads
# 5e-5, no clipping; warm-up over the first tenth from 0, then linear decay to 0.
iterations = 100_000
warmup = iterations // 10

train_cfg = dict(type='FiberIterTrainLoop', max_iters=iterations, val_interval=2500)
optim_wrapper = dict(
    type='OptimWrapper',  # fp32, as released; AmpOptimWrapper is faster
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(preset='coarse'),
    optimizer=dict(type='AdamW', lr=1e-5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01),
)
param_scheduler = [
    # mmengine reaches the end value one step before `end`, and cannot start from exactly 0.
    dict(type='LinearLR', start_factor=1e-9, begin=0, end=warmup + 1, by_epoch=False),
    dict(type='PolyLR', power=1.0, eta_min=0.0, begin=warmup, end=iterations + 1, by_epoch=False),
]
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=4096)
