# FIBER-nano: the same classes as FIBER-Base at a size that two CPU cores train in minutes.
#
# What differs beside the sizes: text is padded to the longest prompt only, the pyramid has the
# three levels that a small image needs, and anchors are 4 strides wide, since half of the Shapes
# objects are smaller than 32 pixels. Starting values (`local_init`, `near_identity`, `init_std`)
# are made for learning from scratch in minutes; FIBER-Base starts from trained encoders instead.
model = dict(
    type='FiberGrounder',
    data_preprocessor=dict(
        type='FiberDataPreprocessor',
        tokenizer='data/shapes/tokenizer',
        max_tokens=256,
        pad_to='longest',
        mean=[103.53, 116.28, 123.675],  # BGR, 0-255
        std=[57.375, 57.12, 58.395],
        bgr_to_rgb=False,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type='FiberBackbone',
        swin=dict(
            embed_dim=32,
            depths=(1, 2, 2, 1),
            num_heads=(2, 4, 4, 8),
            window_size=5,  # 160 pixels: maps of 40, 20, 10 and 5 tokens a side
            init_std=None,
            local_init=True,
        ),
        roberta=dict(
            vocab_size=618,
            hidden_size=96,
            num_layers=3,
            num_heads=4,
            intermediate_size=384,
            max_position_embeddings=258,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            init_std=None,
            word_init_std=1.0,
            local_init=True,
        ),
        fusion=dict(num_blocks=2, norm_i2t_query=True),
        out_indices=(1, 2, 3),
    ),
    neck=dict(
        type='FiberFPN',
        in_channels=[64, 128, 256],
        out_channels=64,
        num_outs=3,
        near_identity=True,
    ),
    bbox_head=dict(
        type='FiberATSSHead',
        in_channels=64,
        feat_channels=64,
        text_channels=96,
        num_blocks=1,
        num_groups=8,
        near_identity=True,
        strides=(8, 16, 32),
        anchor_generator=dict(
            type='mmdet.AnchorGenerator',
            strides=[8, 16, 32],
            ratios=[1.0],
            octave_base_scale=4,
            scales_per_octave=1,
            center_offset=0.5,
        ),
    ),
    train_cfg=None,
    test_cfg=dict(
        score_thr=0.05,
        nms_pre=1000,
        min_bbox_size=0,
        nms=dict(type='nms', iou_threshold=0.6),
        max_per_img=100,
        box_end='inclusive',
    ),
)
