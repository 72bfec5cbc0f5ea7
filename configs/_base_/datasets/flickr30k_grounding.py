# Flickr30k Entities: the phrases of captions, ground truth "separate" (any box of the phrase).
_base_ = './fiber_pipelines.py'
data_root = 'data/flickr30k_entities/'

val_dataloader = dict(
    batch_size=5,  # texts of one image
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    batch_sampler=dict(type='FiberSameImageBatchSampler'),
    dataset=dict(
        type='FiberMDETRDataset',
        data_root=data_root,
        ann_file='final_flickr_separateGT_val.json',
        data_prefix=dict(img='flickr30k_images/'),
        test_mode=True,
        pipeline=_base_.test_pipeline,
    ),
)
val_evaluator = dict(type='FiberFlickr30kMetric')
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
