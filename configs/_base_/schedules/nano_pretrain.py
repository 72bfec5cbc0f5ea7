# A few minutes on two cores: AdamW, warm-up, decay in the last quarter.
iterations = 1000

train_cfg = dict(type='FiberIterTrainLoop', max_iters=iterations, val_interval=iterations + 1)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(
        rules=[
            dict(contains='alpha', lr_mult=2.0, decay_mult=0.0),
            dict(contains='bias', decay_mult=0.0),
        ]
    ),
    optimizer=dict(type='AdamW', lr=5e-4, betas=(0.9, 0.98), weight_decay=0.05),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=iterations // 4,
        begin=iterations - iterations // 4,
        end=iterations,
        eta_min_ratio=0.01,
        by_epoch=False,
    ),
]
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=32)
