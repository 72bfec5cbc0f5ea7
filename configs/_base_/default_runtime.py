# What every run has: logs, checkpoints, seeds.
custom_imports = dict(imports=['fiber_mm'], allow_failed_imports=False)
default_scope = 'mmdet'
runner_type = 'FiberRunner'

default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='FiberCheckpointHook', by_epoch=False, interval=2500, max_keep_ckpts=3),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    visualization=dict(type='FiberVisualizationHook'),
)
log_processor = dict(type='LogProcessor', window_size=50, by_epoch=False)
vis_backends = [dict(type='LocalVisBackend')]
# Without a name: every run in a process has its own, with its own folder.
visualizer = dict(type='DetLocalVisualizer', vis_backends=vis_backends)

env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
log_level = 'INFO'
load_from = None
resume = False
