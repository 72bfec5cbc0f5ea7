# Captioned Shapes images in Karpathy's JSON; squares of 96 pixels. Validated, and tested, on the
# images of val, which stand as Karpathy's test split.
data_root = 'data/shapes_captions/'
tokenizer = data_root + 'tokenizer'
shapes = dict(splits=dict(train=6000, val=1000), seed=0, image_size=256)

load_image = dict(type='FiberLoadImage')
resize = dict(type='FiberSquareResize', size=96)
mask = dict(type='FiberMaskTokens', tokenizer=tokenizer, max_tokens=40)
pack = dict(type='FiberPackImageText')
pipeline = [load_image, resize, mask, pack]
test_pipeline = [load_image, resize, pack]

captions = dict(
    type='FiberKarpathyDataset',
    data_root=data_root,
    ann_file='annotations/dataset_coco.json',
    data_prefix=dict(img_path=''),
)
train_dataloader = dict(
    batch_size=32,
    num_workers=1,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='FiberInfiniteSampler'),
    dataset=dict(captions, split='train', pipeline=pipeline),
)
# One sample is an image with all its captions.
val_dataloader = dict(
    batch_size=32,
    num_workers=1,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(captions, split='test', per='image', test_mode=True, pipeline=test_pipeline),
)
val_evaluator = dict(type='FiberRetrievalRecall', topk=(1, 5, 10))
val_cfg = dict(type='FiberRetrievalValLoop', protocols=('itc',))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itc',))
