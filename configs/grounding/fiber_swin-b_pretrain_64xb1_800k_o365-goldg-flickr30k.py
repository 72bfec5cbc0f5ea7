# Fine-grained pre-training on Objects365, GoldG without COCO's images, and Flickr30k: 64 GPUs of 1
# image, 800,000 steps, from the weights of the coarse stage.
#
#     python tools/convert_checkpoint.py COARSE.ckpt INIT.pth --init fine --window 12
#     torchrun --nnodes 4 --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_pretrain_64xb1_800k_o365-goldg-flickr30k.py \
#         --launcher pytorch --cfg-options load_from=INIT.pth
#
# Expected (FIBER, arXiv 2206.07643), without further training: COCO AP 49.3, LVIS minival 35.8.
_base_ = [
    '../_base_/models/fiber_swin-b_grounding.py',
    '../_base_/datasets/o365_goldg_flickr30k.py',
    '../_base_/schedules/pretrain_800k.py',
    '../_base_/default_runtime.py',
]
model = dict(bbox_head=dict(with_checkpoint=True))
