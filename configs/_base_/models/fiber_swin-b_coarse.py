# FIBER-Base of the coarse stage at 384 px; windows are 1/32 of the image's side.
model = dict(
    type='FiberMultimodal',
    swin=dict(
        embed_dim=128,
        depths=(2, 2, 18, 2),
        num_heads=(4, 8, 16, 32),
        window_size=12,
        drop_path_rate=0.1,
        shift_single_window=False,
        output_norms=(),
        final_norm=True,
    ),
    roberta=dict(hidden_dropout=0.1, attention_dropout=0.1),
    fusion=dict(num_blocks=6, norm_i2t_query=True, fused_text_norm=False),
    parts=('fused', 'itc', 'mlm', 'itm'),
)
