# FIBER-Base detector of the family "v3": RefCOCO/+/g and the pre-training before them.
_base_ = './fiber_swin-b_grounding.py'
model = dict(
    backbone=dict(fusion=dict(norm_i2t_query=True)),
    # An expression always has an answer: no score is too low.
    test_cfg=dict(score_thr=0.0, nms_pre=3000),
)
