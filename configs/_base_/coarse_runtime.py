# What every run of the coarse stage has: as in the fine stage, but nothing is drawn.
_base_ = './default_runtime.py'
default_scope = 'mmpretrain'
default_hooks = dict(
    _delete_=True,
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='FiberCheckpointHook', by_epoch=False, interval=2500, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
visualizer = dict(_delete_=True, type='Visualizer', vis_backends=_base_.vis_backends)
