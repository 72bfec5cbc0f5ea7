# RefCOCOg fine-tuning from the weights of the "refexp-clean" pre-training: 16 GPUs of 1 image, 20
# epochs of 80,512 expressions; validated on val, tested on val and test.
#
#     torchrun --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcocog.py --launcher pytorch \
#         --cfg-options load_from=PRETRAINED.pth
#     python tools/test.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcocog.py WEIGHTS.pth
#
# Expected (FIBER, arXiv 2206.07643), accuracy of the best box: val 87.1, test 87.3.
_base_ = './fiber_swin-b_finetune_16xb1_20e_refcoco.py'
iterations = 20 * 80512 // 16
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
train_dataloader = dict(dataset=dict(ann_file='mdetr_annotations/finetune_refcocog_train.json'))
val_dataloader = dict(dataset=dict(ann_file='mdetr_annotations/finetune_refcocog_val.json'))

splits = ('val', 'test')
test_dataloader = dict(
    dataset=dict(
        datasets=[
            dict(
                type='FiberMDETRDataset',
                data_root=_base_.data_root,
                ann_file=f'mdetr_annotations/finetune_refcocog_{split}.json',
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
