# FIBER-nano for coarse pre-training: the encoder of fiber_nano_grounding.py with the settings of
# the coarse family, which the fine stage can start from. Images are read as there, in BGR.
#
# Words are not given local heads at the start, as there: with them the first token, which stands
# for the caption in the contrast, sees its neighbours alone, and contrast does not begin to learn.
# Gates start open: from 0, which is meant for encoders that were trained before, they hardly open
# in some hundred steps, and masked words and matching see nothing of the image.
model = dict(
    type='FiberPretrain',
    data_preprocessor=dict(
        type='FiberImageTextPreprocessor',
        tokenizer='data/shapes_captions/tokenizer',
        max_tokens=40,
        pad_to='max',
        mean=[103.53, 116.28, 123.675],  # BGR, 0-255
        std=[57.375, 57.12, 58.395],
        to_rgb=False,
    ),
    swin=dict(
        embed_dim=32,
        depths=(1, 2, 2, 1),
        num_heads=(2, 4, 4, 8),
        window_size=6,  # 96 pixels: maps of 24, 12, 6 and 3 tokens a side
        init_std=None,
        local_init=True,
        shift_single_window=False,
        output_norms=(),
        final_norm=True,
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
    ),
    fusion=dict(num_blocks=2, norm_i2t_query=True, fused_text_norm=False, gate_init=1.0),
    joint_dim=96,
)
