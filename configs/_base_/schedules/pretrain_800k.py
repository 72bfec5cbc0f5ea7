# Pre-training: 800,000 steps of 64 images, AdamW 1e-4, the text encoder 1e-5, clipping at 1;
# weight decay drops at two thirds of the way to each drop of the learning rate. Patch embedding
# and the first stage stay as they are (base model).
iterations = 800_000

train_cfg = dict(
    type='FiberIterTrainLoop', max_iters=iterations, val_interval=20_000, max_empty=0.1
)
optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(preset='fine'),
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=1.0),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=2000, by_epoch=False),
    dict(
        type='MultiStepLR',
        milestones=[round(0.67 * iterations), round(0.89 * iterations)],
        gamma=0.1,
        by_epoch=False,
    ),
    dict(
        type='MultiStepParamScheduler',
        param_name='weight_decay',
        milestones=[round(0.667 * 0.67 * iterations), round(0.667 * 0.89 * iterations)],
        gamma=0.1,
        by_epoch=False,
    ),
]
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.001, priority=49)
]
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=64)
