# RefCOCO+ fine-tuning from the weights of the "refexp-clean" pre-training: 16 GPUs of 1 image, 20
# epochs of 120,191 expressions; validated on val, tested on val, testA and testB.
#
#     torchrun --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcocoplus.py --launcher pytorch \
#         --cfg-options load_from=PRETRAINED.pth
#     python tools/test.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcocoplus.py WEIGHTS.pth
#
# Expected (FIBER, arXiv 2206.07643), accuracy of the best box: val 85.7, testA 90.1, testB 79.4.
_base_ = './fiber_swin-b_finetune_16xb1_20e_refcoco.py'
iterations = 20 * 120191 // 16
train_cfg = dict(max_iters=iterations)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.001, begin=0, end=2000, by_epoch=False),
    dict(
        type='MultiStepLR',
        milestones=[round(0.67 * iterations), round(0.89 * iterations)],
        gamma=0.1,
        by_epoch=False,
    ),
]
train_dataloader = dict(dataset=dict(ann_file='mdetr_annotations/finetune_refcoco+_train.json'))
val_dataloader = dict(dataset=dict(ann_file='mdetr_annotations/finetune_refcoco+_val.json'))

splits = ('val', 'testA', 'testB')
test_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='FiberMDETRDataset',
                data_root=_base_.data_root,
                ann_file=f'mdetr_annotations/finetune_refcoco+_{split}.json',
                data_prefix=dict(img='train2014/'),
                test_mode=True,
            )
            for split in splits
        ],
    ),
)
test_evaluator = dict(
    metrics=[dict(type='FiberRefExpMetric') for _ in splits], dataset_prefixes=list(splits)
)
