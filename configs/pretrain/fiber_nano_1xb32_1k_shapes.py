# Coarse pre-training of FIBER-nano on Shapes, from scratch, one process on two CPU cores.
#
#     python tools/make_shapes.py data/shapes_captions --split train=6000,val=1000
#     python tools/train.py configs/pretrain/fiber_nano_1xb32_1k_shapes.py
#     python tools/test.py configs/pretrain/fiber_nano_1xb32_1k_shapes.py WEIGHTS.pth
#
# Also the first stage of the demo (`tools/demo.py --coarse-steps N`) and of `tools/ablations.py`;
# the fine stage has windows of 5: its start has the position-bias tables resized. Validated, and
# tested, on 200 images of val and their captions by the dual encoder, where chance is R@1 0.005;
# on all 1,000 with --cfg-options test_dataloader.dataset.indices=None.
_base_ = [
    '../_base_/models/fiber_nano_pretrain.py',
    '../_base_/datasets/shapes_captions.py',
    '../_base_/schedules/nano_pretrain.py',
    '../_base_/coarse_runtime.py',
]
train_cfg = dict(val_interval=250)
val_dataloader = dict(dataset=dict(indices=200))
test_dataloader = val_dataloader
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=500, max_keep_ckpts=2),
)
randomness = dict(seed=0)
