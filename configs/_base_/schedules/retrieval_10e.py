# Fine-tuning for retrieval: 10 epochs of 1,024 pairs a step, AdamW 2e-5, the fusion's parts and the
# heads 1e-4, no clipping; warm-up over the first epoch (a tenth) from 0, then linear decay to 0.
train_cfg = dict(type='FiberEpochTrainLoop', max_epochs=10, val_interval=1)
optim_wrapper = dict(
    type='OptimWrapper',  # fp32, as released; AmpOptimWrapper is faster
    constructor='FiberOptimWrapperConstructor',
    paramwise_cfg=dict(preset='coarse'),
    optimizer=dict(type='AdamW', lr=2e-5, betas=(0.9, 0.98), eps=1e-8, weight_decay=0.01),
)
param_scheduler = [
    # mmengine cannot start from exactly 0.
    dict(
        type='LinearLR',
        start_factor=1e-9,
        begin=0,
        end=1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='PolyLR',
        power=1.0,
        eta_min=0.0,
        begin=1,
        end=10,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
# Each of the two losses leaves some parameters of the encoder unused.
find_unused_parameters = True
# The batch that the rate is meant for: tools/train.py --auto-scale-lr scales by it.
auto_scale_lr = dict(enable=False, base_batch_size=1024)
