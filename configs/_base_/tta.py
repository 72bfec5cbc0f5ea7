# Test-time augmentation (tools/test.py --tta, ours and mmdet's): the image and its mirror image.
tta_model = dict(
    type='FiberDetTTAModel',
    tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.6), max_per_img=100),
)
mirrored = [dict(type='RandomFlip', prob=prob) for prob in (1.0, 0.0)]
