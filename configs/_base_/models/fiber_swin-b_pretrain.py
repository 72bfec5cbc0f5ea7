# FIBER-Base for pre-training at 384 px: contrast, matching with hard negatives, MLM.
#
# Negatives come from the batch of all ranks. The original's semantics, a queue of 4,096 past
# samples whose unfilled places are noise: negatives='queue', queue=dict(size=4096, noise=True).
_base_ = './fiber_swin-b_coarse.py'
model = dict(
    type='FiberPretrain',
    parts=None,  # what the losses need
    losses=('itc', 'itm', 'mlm'),
    negatives='batch',
    hard_negatives=True,
    data_preprocessor=dict(
        type='FiberImageTextPreprocessor',
        tokenizer='roberta-base',
        max_tokens=40,
        pad_to='max',
        mean=[123.675, 116.28, 103.53],  # RGB, 0-255
        std=[58.395, 57.12, 57.375],
        to_rgb=True,
    ),
)
