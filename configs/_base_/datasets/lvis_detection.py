# LVIS v1, with COCO's loaders: 85 sampled negatives in training, 31 prompts of 40 classes in
# testing, fixed AP on minival (the 5,000 images of COCO's val2017); 16 GPUs of 2 images.
_base_ = './coco_detection.py'
minival = 'annotations/lvis_v1_minival_inserted_image_name.json'

train_pipeline = [
    _base_.load_image,
    _base_.load_boxes,
    _base_.inclusive_boxes,
    _base_.train_resize,
    _base_.flip,
    dict(type='FiberPrompt', tokenizer=_base_.tokenizer, num_negatives=85),
    _base_.pack,
]
train_dataloader = dict(
    dataset=dict(
        type='FiberLVISDataset',
        ann_file='annotations/lvis_v1_train.json',
        data_prefix=dict(img=''),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(type='FiberLVISDataset', ann_file=minival, data_prefix=dict(img=''))
)
val_evaluator = dict(type='FiberLVISFixedAPMetric', ann_file=_base_.data_root + minival)
test_dataloader = val_dataloader
test_evaluator = val_evaluator
tta_model = dict(tta_cfg=dict(max_per_img=300))
