# RefCOCO fine-tuning from the weights of the "refexp-clean" pre-training: 16 GPUs of 1 image, 20
# epochs of 120,624 expressions; validated on val, tested on val, testA and testB.
#
#     torchrun --nproc_per_node 16 tools/train.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcoco.py --launcher pytorch \
#         --cfg-options load_from=PRETRAINED.pth
#     python tools/test.py \
#         configs/grounding/fiber_swin-b_finetune_16xb1_20e_refcoco.py WEIGHTS.pth
#
# Expected (FIBER, arXiv 2206.07643), accuracy of the best box: val 90.7, testA 92.6, testB 87.3.
_base_ = [
    '../_base_/models/fiber_swin-b_refexp.py',
    '../_base_/datasets/refexp_grounding.py',
    '../_base_/schedules/finetune.py',
    '../_base_/default_runtime.py',
]
model = dict(
    backbone=dict(with_cp=True, swin=dict(frozen_stages=-1)),
    bbox_head=dict(with_checkpoint=True),
)
iterations = 20 * 120624 // 16
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

splits = ('val', 'testA', 'testB')
test_dataloader = dict(
    batch_size=5,  # texts of one image
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=dict(type='FiberSameImageBatchSampler'),
    dataset=dict(
        type='FiberConcatDataset',
        pipeline=_base_.test_pipeline,
        datasets=[
            dict(
                type='FiberMDETRDataset',
                data_root=_base_.data_root,
                ann_file=f'mdetr_annotations/finetune_refcoco_{split}.json',
                data_prefix=dict(img='train2014/'),
                test_mode=True,
            )
            for split in splits
        ],
    ),
)
test_evaluator = dict(
    type='MultiDatasetsEvaluator',
    metrics=[dict(type='FiberRefExpMetric') for _ in splits],
    dataset_prefixes=list(splits),
)
auto_scale_lr = dict(base_batch_size=16)
