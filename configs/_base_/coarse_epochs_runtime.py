# As coarse_runtime.py, for training by epochs: what is logged and saved counts them.
_base_ = './coarse_runtime.py'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=True),
    checkpoint=dict(by_epoch=True, interval=1, max_keep_ckpts=2),
)
log_processor = dict(by_epoch=True)
# Seconds that a rank waits for the others (10 minutes by default): when every pair of COCO is
# matched, a block of images is 400,000 passes of the fused blocks, and some ranks have one more.
env_cfg = dict(dist_cfg=dict(timeout=7200))
