# The pre-training before RefCOCO: family "v3", GoldG also without the images of the RefCOCO
# validation and test sets (that file is made from the other by leaving them out), 5,000 steps of
# warm-up.
#
#     python tools/convert_checkpoint.py COARSE.ckpt INIT.pth --init fine_refexp --window 12
#     torchrun --nnodes 4 --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_pretrain_64xb1_800k_o365-goldg-flickr30k-refexpclean.py \
#         --launcher pytorch --cfg-options load_from=INIT.pth
_base_ = './fiber_swin-b_pretrain_64xb1_800k_o365-goldg-flickr30k.py'
model = dict(backbone=dict(fusion=dict(norm_i2t_query=True)))
mixed = dict(ann_file='final_mixed_train_no_coco_refexpclean.json')
train_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(_base_.mixed, ann_file=mixed['ann_file']),
            _base_.flickr30k,
            _base_.objects365,
        ]
    )
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=5000, by_epoch=False),
    *_base_.param_scheduler[1:],
]
