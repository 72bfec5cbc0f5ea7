# Pre-training: Objects365 (detection), GoldG without COCO's images (captions of Visual Genome and
# GQA) and Flickr30k, concatenated; 64 GPUs of 1 image. Evaluation: COCO without fine-tuning.
_base_ = './coco_detection.py'

o365_pipeline = [
    _base_.load_image,
    _base_.load_boxes,
    _base_.inclusive_boxes,
    _base_.train_resize,
    _base_.flip,
    # 5 % one negative, 5 % none, 50 % all 85, else 1 to 85. The original's class list has
    # "__background__" in it, which comes out as " background ".
    dict(
        type='FiberPrompt',
        tokenizer=_base_.tokenizer,
        num_negatives=85,
        one_negative_prob=0.05,
        no_negative_prob=0.05,
        full_prob=0.5,
        extra_negatives=('__background__',),
    ),
    _base_.pack,
]
objects365 = dict(
    type='FiberODVGDataset',
    data_root='data/objects365v1/',
    ann_file='o365v1_train_odvg.json',
    label_map_file='o365v1_label_map.json',
    data_prefix=dict(img='train/'),
    filter_cfg=dict(filter_empty_gt=True),
    pipeline=o365_pipeline,
)
mixed = dict(
    type='FiberMDETRDataset',
    data_root='data/gqa/',
    ann_file='final_mixed_train_no_coco.json',
    data_prefix=dict(img='images/'),
    pipeline=_base_.caption_pipeline,
)
flickr30k = dict(
    type='FiberMDETRDataset',
    data_root='data/flickr30k_entities/',
    ann_file='final_flickr_separateGT_train.json',
    data_prefix=dict(img='flickr30k_images/'),
    pipeline=_base_.caption_pipeline,
)
train_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='FiberInfiniteSampler'),
    batch_sampler=dict(type='FiberAspectRatioBatchSampler'),
    dataset=dict(
        type='ConcatDataset', ignore_keys=['classes'], datasets=[mixed, flickr30k, objects365]
    ),
)
test_dataloader = _base_.val_dataloader
test_evaluator = _base_.val_evaluator
