# FIBER-Base for retrieval. 384 px as in pre-training; at 576 px the window is 18, and the
# position-bias tables of weights from 384 px are resized when they are converted (--window 18).
_base_ = './fiber_swin-b_coarse.py'
model = dict(
    type='FiberRetrieval',
    parts=None,  # what the losses need
    data_preprocessor=dict(
        type='FiberImageTextPreprocessor',
        tokenizer='roberta-base',
        max_tokens=50,
        pad_to='max',
        mean=[123.675, 116.28, 103.53],  # RGB, 0-255
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)
