# COCO retrieval by contrast (dual encoder) at 576 px: 8 GPUs of 32 pairs, four parts a step of
# 1,024, 10 epochs, from coarse pre-training.
#
#     python tools/convert_checkpoint.py fiber_pretrain.ckpt start.pth \
#         --init coarse_retrieval_itc --window 18
#     torchrun --nproc_per_node 8 tools/train.py \
#         configs/retrieval/fiber_swin-b_itc_8xb32-acc4_10e_coco.py --launcher pytorch \
#         --cfg-options load_from=start.pth
#     python tools/test.py configs/retrieval/fiber_swin-b_itc_8xb32-acc4_10e_coco.py WEIGHTS.pth
#
# Expected on test (released code's README): TR@1 75.4, IR@1 58.0.
_base_ = [
    '../_base_/models/fiber_swin-b_retrieval.py',
    '../_base_/datasets/coco_retrieval.py',
    '../_base_/schedules/retrieval_10e.py',
    '../_base_/coarse_epochs_runtime.py',
]
image_size = 576
# As released, candidates are the rank's own part and a queue of past pairs, noise at first.
model = dict(
    losses=('itc',),
    negatives='queue',
    queue=dict(size=4096, noise=True),
    swin=dict(window_size=image_size // 32),
    with_cp=True,
)

# The second step of both pipelines makes the square.
train_pipeline, test_pipeline = _base_.train_pipeline, _base_.test_pipeline
train_pipeline[1]['size'] = test_pipeline[1]['size'] = image_size
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itc',))
# The original, too, validates on what it tests on.
val_dataloader = _base_.test_dataloader
val_dataloader.dataset.pipeline = test_pipeline
val_evaluator = _base_.test_evaluator
val_cfg = dict(type='FiberRetrievalValLoop', protocols=('itc',))

optim_wrapper = dict(accumulative_counts=4)
auto_scale_lr = dict(base_batch_size=1024 // 4)  # of a part
