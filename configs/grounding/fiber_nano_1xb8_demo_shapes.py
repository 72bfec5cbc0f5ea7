# The demo: FIBER-nano on Shapes, from scratch, one process on two CPU cores.
#
#     make demo
#     python tools/train.py configs/grounding/fiber_nano_1xb8_demo_shapes.py
_base_ = [
    '../_base_/models/fiber_nano_grounding.py',
    '../_base_/datasets/shapes_grounding.py',
    '../_base_/schedules/nano.py',
    '../_base_/default_runtime.py',
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=450, max_keep_ckpts=2),
)
randomness = dict(seed=0)
