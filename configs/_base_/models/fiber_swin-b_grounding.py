# FIBER-Base detector of the family "v2": pre-training, COCO, LVIS, ODinW, Flickr30k.
model = dict(
    type='FiberGrounder',
    data_preprocessor=dict(
        type='FiberDataPreprocessor',
        tokenizer='roberta-base',
        max_tokens=256,
        mean=[103.53, 116.28, 123.675],  # BGR, 0-255
        std=[57.375, 57.12, 58.395],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='FiberBackbone',
        swin=dict(
            embed_dim=128,
            depths=(2, 2, 18, 2),
            num_heads=(4, 8, 16, 32),
            window_size=12,
            drop_path_rate=0.4,
            frozen_stages=1,
        ),
        roberta=dict(hidden_dropout=0.1, attention_dropout=0.1),
        fusion=dict(num_blocks=6, norm_i2t_query=False),
        out_indices=(1, 2, 3),
    ),
    neck=dict(
        type='FiberFPN',
        in_channels=[256, 512, 1024],
        out_channels=256,
        num_outs=5,
        add_extra_convs='on_output',
        relu_before_extra_convs=True,
        drop_block=dict(drop_prob=0.3, block_size=3),
    ),
    bbox_head=dict(
        type='FiberATSSHead',
        in_channels=256,
        text_channels=768,
        num_blocks=6,
    ),
    train_cfg=None,
    test_cfg=dict(
        score_thr=0.05,
        nms_pre=1000,
        min_bbox_size=0,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
        # Our metrics take inclusive corners; FiberCocoMetric adds the last pixel itself.
        box_end='inclusive',
    ),
)
