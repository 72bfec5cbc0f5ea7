# Fine-tuning of FIBER-nano for retrieval on Shapes, by contrast and by matching with hard
# negatives; evaluated on 1,000 images by the dual encoder, without and with re-ranking.
#
#     python tools/make_shapes.py data/shapes_captions --split train=6000,val=1000
#     python tools/train.py configs/pretrain/fiber_nano_1xb32_1k_shapes.py
#     python tools/train.py configs/retrieval/fiber_nano_1xb32_500_shapes.py \
#         --cfg-options load_from=work_dirs/fiber_nano_1xb32_1k_shapes/iter_1000.pth \
#         load_strict=False
#
# load_strict=False leaves the head of masked words behind. A starting point, not tuned.
_base_ = [
    '../_base_/models/fiber_nano_pretrain.py',
    '../_base_/datasets/shapes_retrieval.py',
    '../_base_/schedules/nano_pretrain.py',
    '../_base_/coarse_runtime.py',
]
model = dict(type='FiberRetrieval', losses=('itc', 'itm'), hard_negatives=True)

iterations = 500
train_cfg = dict(max_iters=iterations, val_interval=iterations)
optim_wrapper = dict(optimizer=dict(lr=2e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.02, begin=0, end=50, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        T_max=iterations - 50,
        begin=50,
        end=iterations,
        eta_min_ratio=0.01,
        by_epoch=False,
    ),
]
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=iterations, max_keep_ckpts=2),
)
randomness = dict(seed=0)
