# Coarse pre-training of the demo, short, on small images; its weights start the fine stage:
#
#     python tools/demo.py --coarse-steps 1000
#
# Windows of 6 tokens tile the maps of 96 pixels (24, 12 and 6 a side; the last, 3, is padded). The
# fine stage has windows of 5: its start has the position-bias tables resized. Not tuned: no
# schedule was found yet that is worth its time, so the demo leaves this stage out by default.
# The demo evaluates at the end, so nothing is validated on the way.
_base_ = './fiber_nano_1xb32_1k_shapes.py'

model = dict(
    swin=dict(window_size=6, init_std=None, local_init=True),
    roberta=dict(local_init=True),
)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(
        pipeline=[
            dict(type='FiberLoadImage'),
            dict(type='FiberSquareResize', size=96),
            dict(type='FiberMaskTokens', tokenizer=_base_.tokenizer, max_tokens=40),
            dict(type='FiberPackImageText'),
        ]
    ),
)
val_dataloader, val_evaluator, val_cfg = None, None, None
