# Flickr30k Entities, val and test, with the pre-trained weights: R@1, 5, 10 at IoU 0.5, any box.
#
#     python tools/test.py configs/grounding/fiber_swin-b_eval_flickr30k.py WEIGHTS.pth
#
# The truth is that of the annotation files. For the published protocol, whose truth are the XML
# files of Flickr30k Entities, give each metric
# entities_root='data/flickr30k_entities/Flickr30kEntities'.
_base_ = [
    '../_base_/models/fiber_swin-b_grounding.py',
    '../_base_/datasets/flickr30k_grounding.py',
    '../_base_/default_runtime.py',
]
# A phrase on no token of its caption scores 0.
model = dict(data_preprocessor=dict(skip_faulty_phrases=True))
splits = ('val', 'test')
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
                ann_file=f'final_flickr_separateGT_{split}.json',
                data_prefix=dict(img='flickr30k_images/'),
                test_mode=True,
            )
            for split in splits
        ],
    ),
)
test_evaluator = dict(
    type='MultiDatasetsEvaluator',
    metrics=[dict(type='FiberFlickr30kMetric') for _ in splits],
    dataset_prefixes=list(splits),
)
