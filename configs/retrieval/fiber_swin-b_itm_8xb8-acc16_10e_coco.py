# COCO retrieval by matching (every pair through the fused blocks) at 384 px: 8 GPUs of 8 pairs,
# sixteen parts a step of 1,024, 10 epochs, from coarse pre-training.
#
#     python tools/convert_checkpoint.py fiber_pretrain.ckpt start.pth --init coarse_retrieval_itm
#     torchrun --nproc_per_node 8 tools/train.py \
#         configs/retrieval/fiber_swin-b_itm_8xb8-acc16_10e_coco.py --launcher pytorch \
#         --cfg-options load_from=start.pth
#     torchrun --nproc_per_node 8 tools/test.py \
#         configs/retrieval/fiber_swin-b_itm_8xb8-acc16_10e_coco.py WEIGHTS.pth --launcher pytorch \
#         --cfg-options test_cfg.cache_dir=work_dirs/itm_cache test_cfg.fp16=True
#
# The test matches 5,000 images with 25,010 captions, 125 million pairs. For a released checkpoint
# add model.rank_by=rank_output. Expected on test (released code's README): TR@1 75.1, IR@1 59.0.
_base_ = [
    '../_base_/models/fiber_swin-b_retrieval.py',
    '../_base_/datasets/coco_retrieval.py',
    '../_base_/schedules/retrieval_10e.py',
    '../_base_/coarse_epochs_runtime.py',
]
model = dict(losses=('itm',), hard_negatives=False)
train_dataloader = dict(batch_size=8)
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itm',))
optim_wrapper = dict(accumulative_counts=16)
auto_scale_lr = dict(base_batch_size=1024 // 16)  # of a part
