# COCO captions in Karpathy's splits: trained on train + val without restval, evaluated on test
# (5,000 images), as released. A leaf of another size sets `image_size` and repeats the pipelines.
#
# The same from arrow tables: dataset=dict(_delete_=True, type='FiberArrowDataset', name='coco',
# data_root='data/arrow/', split=..., ...).
data_root = 'data/coco/'
ann_file = 'annotations/dataset_coco.json'
img_path = ''  # the file names the folders train2014 and val2014
image_size = 384

train_pipeline = [
    dict(type='FiberLoadImage', color_type='color_ignore_orientation'),
    dict(type='FiberRandomResizedCrop', size=image_size, scale=(0.5, 1.0)),
    dict(type='RandomFlip', prob=0.5),
    dict(type='FiberRandAugment', num_ops=2, magnitude=7),
    dict(type='FiberPackImageText'),
]
test_pipeline = [
    dict(type='FiberLoadImage', color_type='color_ignore_orientation'),
    dict(type='FiberSquareResize', size=image_size),
    dict(type='FiberPackImageText'),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='FiberEpochSampler'),
    dataset=dict(
        type='FiberKarpathyDataset',
        data_root=data_root,
        ann_file=ann_file,
        data_prefix=dict(img_path=img_path),
        split='train',
        pipeline=train_pipeline,
    ),
)
# One sample is an image with all its captions; the batch is what the loop encodes at once.
test_dataloader = dict(
    batch_size=16,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberKarpathyDataset',
        data_root=data_root,
        ann_file=ann_file,
        data_prefix=dict(img_path=img_path),
        split='test',
        per='image',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_evaluator = dict(type='FiberRetrievalRecall', topk=(1, 5, 10))
