# Fine-tuning on a benchmark: AdamW 1e-5 for everything but biases (FiberOptimWrapperConstructor),
# 2,000 steps of warm-up, drops at 0.67 and 0.89 of all steps, averaged weights, no clipping,
# nothing frozen. A leaf sets `iterations` and repeats what depends on it.
iterations = 24 * 117266 // 32

train_cfg = dict(type='FiberIterTrainLoop', max_iters=iterations, val_interval=2500, max_empty=0.1)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(rules=[dict(contains='bias', lr_mult=2.0, decay_mult=0.0)]),
    optimizer=dict(type='AdamW', lr=1e-5, weight_decay=1e-4),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=2000, by_epoch=False),
    dict(
        type='MultiStepLR',
        milestones=[round(0.67 * iterations), round(0.89 * iterations)],
        gamma=0.1,
        by_epoch=False,
    ),
]
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.001, priority=49)
]
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=32)
