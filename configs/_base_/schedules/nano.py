# A few minutes on two cores: AdamW, warm-up, decay in the last quarter, averaged weights.
#
# Rates differ by what a parameter does. The projection of the text starts small and has to turn
# before classes can be told apart; box and centerness outputs start near 0. Offsets and attention
# of the tower stay calm until there is something to look at. Random word vectors are good codes
# from the start, so the text encoder learns slowly. The average does most of what a decay would,
# and shapes are learnt late: a rate that falls from the beginning costs more than it gives.
iterations = 900

train_cfg = dict(type='FiberIterTrainLoop', max_iters=iterations, val_interval=300)
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(
        rules=[
            dict(contains='encoder.text.', lr_mult=0.3, without='alpha'),
            dict(contains='alpha', lr_mult=2.0, decay_mult=0.0),
            dict(contains=('.offset.', 'AttnConv'), lr_mult=0.03),
            dict(contains=('bbox_pred', 'bbox_head.scales', 'centerness'), lr_mult=3.0),
            dict(contains=('dot_product_projection_text', 'log_scale'), lr_mult=8.0),
            dict(contains='bias', decay_mult=0.0),
        ]
    ),
    optimizer=dict(type='AdamW', lr=1.2e-3, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
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
custom_hooks = [
    dict(type='EMAHook', ema_type='ExponentialMovingAverage', momentum=0.005, priority=49)
]
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=8)
