# Captioned images of coarse pre-training, as the arrow tables of ViLT and METER: COCO (Karpathy's
# train + val, without restval), Visual Genome, SBU and Conceptual Captions, concatenated, so that
# each weighs by its captions. Squares of 384 pixels, no augmentation. Validated, and tested, on
# COCO's test split (5,000 images), as released, by the recalls of the dual encoder.
data_root = 'data/arrow/'
tokenizer = 'roberta-base'
image_size = 384
max_tokens = 40

pipeline = [
    dict(type='FiberLoadImage', color_type='color_ignore_orientation'),
    dict(type='FiberSquareResize', size=image_size),
    dict(type='FiberMaskTokens', tokenizer=tokenizer, max_tokens=max_tokens, prob=0.15),
    dict(type='FiberPackImageText'),
]
test_pipeline = [
    dict(type='FiberLoadImage', color_type='color_ignore_orientation'),
    dict(type='FiberSquareResize', size=image_size),
    dict(type='FiberPackImageText'),
]
# The original takes another sample in the place of an unreadable image in silence; here they are
# counted in the log, and 100 in a row are an error.
coco = dict(
    type='FiberArrowDataset', data_root=data_root, name='coco', on_error='skip', pipeline=pipeline
)
vg = dict(
    type='FiberArrowDataset', data_root=data_root, name='vg', on_error='skip', pipeline=pipeline
)
sbu = dict(
    type='FiberArrowDataset', data_root=data_root, name='sbu', on_error='skip', pipeline=pipeline
)
cc3m = dict(
    type='FiberArrowDataset', data_root=data_root, name='gcc', on_error='skip', pipeline=pipeline
)
train_dataloader = dict(
    batch_size=64,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type='FiberInfiniteSampler'),
    dataset=dict(type='ConcatDataset', datasets=[coco, vg, sbu, cc3m]),
)
# One sample is an image with all its captions.
val_dataloader = dict(
    batch_size=64,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='FiberArrowDataset',
        data_root=data_root,
        name='coco',
        split='test',
        per='image',
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type='FiberRetrievalRecall', topk=(1, 5, 10))
val_cfg = dict(type='FiberRetrievalValLoop', protocols=('itc',))
test_dataloader = val_dataloader
test_evaluator = val_evaluator
test_cfg = dict(type='FiberRetrievalTestLoop', protocols=('itc',))
