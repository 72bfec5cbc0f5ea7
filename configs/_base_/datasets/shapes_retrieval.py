# Shapes for retrieval: captions of `shapes_captions.py` without hidden words; validated and tested
# on the images of val, which stand as Karpathy's test split.
_base_ = './shapes_captions.py'

pipeline = [
    dict(type='FiberLoadImage'),
    dict(type='FiberSquareResize', size=160),
    dict(type='FiberPackImageText'),
]
train_dataloader = dict(dataset=dict(pipeline=pipeline))
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberKarpathyDataset',
        data_root=_base_.data_root,
        ann_file='annotations/dataset_coco.json',
        data_prefix=dict(img_path=''),
        split='test',
        per='image',
        test_mode=True,
        pipeline=pipeline,
    ),
)
val_evaluator = dict(type='FiberRetrievalRecall', topk=(1, 5, 10))
val_cfg = dict(type='FiberRetrievalValLoop', protocols=('itc', 'itm_rerank'), rerank_topk=16)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itc', 'itm_rerank'), rerank_topk=16)
