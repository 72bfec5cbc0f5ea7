"""Settings of the encoder, as frozen dataclasses that check themselves.

The released families differ in a few of these fields (``docs/differences.md``):

========================  ========  =======  =======
field                     coarse    fine v2  fine v3
========================  ========  =======  =======
``shift_single_window``   False     True     True
``output_norms``          ()        (1,2,3)  (1,2,3)
``final_norm``            True      False    False
``norm_i2t_query``        True      False    True
``fused_text_norm``       False     True     True
========================  ========  =======  =======
"""

from __future__ import annotations

from dataclasses import dataclass, field


def _positive(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        values = value if isinstance(value, tuple) else (value,)
        if not values or any(not isinstance(v, int) or v < 1 for v in values):
            raise ValueError(
                f'{type(owner).__name__}.{name} must hold whole numbers of at least 1, '
                f'got {value!r}'
            )


def _divides(owner: object, whole: str, width: int, part: str, heads: int) -> None:
    if width % heads:
        raise ValueError(
            f'{type(owner).__name__}: {whole} {width} is not a multiple of {part} {heads}'
        )


def _rate(owner: object, *names: str) -> None:
    for name in names:
        value = getattr(owner, name)
        if not 0 <= value < 1:
            raise ValueError(f'{type(owner).__name__}.{name} must lie in [0, 1), got {value!r}')


@dataclass(frozen=True)
class SwinCfg:
    """Swin Transformer (Liu et al., ICCV 2021); the defaults are Swin-B with window 12.

    Args:
        embed_dim: Channels of stage 0; each further stage doubles them.
        depths: Blocks of each stage.
        num_heads: Attention heads of each stage.
        window_size: Side of the attention windows, in tokens.
        patch_size: Side of a patch, in pixels.
        in_channels: Channels of the image.
        mlp_ratio: Hidden width of the MLP over the width of the block.
        drop_path_rate: Stochastic depth of the last block; it grows linearly from 0.
        shift_single_window: Whether odd blocks shift their window even where one window
            covers the whole map (the detection Swin does, the coarse one does not).
        output_norms: Stages, counted from 0, whose output map gets a LayerNorm of its own.
        final_norm: Whether a LayerNorm follows the last block when the image is encoded
            alone (the coarse stage's contrastive path).
        frozen_stages: -1 trains everything, 0 freezes the patch embedding, n > 0 also the
            first n stages (mmdet's convention).
        init_std: Spread of new matrices; None scales it with the width, 0.8 / sqrt(fan-in),
            since 0.02 is meant for widths of 512 and more.
        local_init: Whether heads look at neighbouring patches from the start
            (:func:`~fiber_mm.core.local_init.local_windows`).
    """

    embed_dim: int = 128
    depths: tuple[int, ...] = (2, 2, 18, 2)
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    window_size: int = 12
    patch_size: int = 4
    in_channels: int = 3
    mlp_ratio: float = 4.0
    drop_path_rate: float = 0.0
    shift_single_window: bool = True
    output_norms: tuple[int, ...] = (1, 2, 3)
    final_norm: bool = False
    frozen_stages: int = -1
    init_std: float | None = 0.02
    local_init: bool = False

    def __post_init__(self) -> None:
        for name in ('depths', 'num_heads', 'output_norms'):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        _positive(self, 'embed_dim', 'depths', 'num_heads', 'window_size', 'patch_size')
        _positive(self, 'in_channels')
        _rate(self, 'drop_path_rate')
        if len(self.depths) != len(self.num_heads):
            raise ValueError(
                f'SwinCfg: depths {self.depths} and num_heads {self.num_heads} differ in length'
            )
        for stage, heads in enumerate(self.num_heads):
            _divides(self, f'width of stage {stage}', self.width(stage), 'its heads', heads)
        if any(not 0 <= stage < len(self.depths) for stage in self.output_norms):
            raise ValueError(
                f'SwinCfg.output_norms {self.output_norms} names a stage outside '
                f'0..{len(self.depths) - 1}'
            )
        if not -1 <= self.frozen_stages <= len(self.depths):
            raise ValueError(
                f'SwinCfg.frozen_stages must lie in -1..{len(self.depths)}, '
                f'got {self.frozen_stages}'
            )

    def width(self, stage: int) -> int:
        """Channels of ``stage`` (from 0)."""
        return self.embed_dim * 2**stage


@dataclass(frozen=True)
class RobertaCfg:
    """RoBERTa encoder (Liu et al., 2019); the defaults are ``roberta-base``.

    Args:
        vocab_size: Rows of the word embedding.
        hidden_size: Width of the tokens.
        num_layers: Number of layers.
        num_heads: Attention heads of each layer.
        intermediate_size: Hidden width of the feed-forward part.
        max_position_embeddings: Rows of the position table; a text may have
            ``max_position_embeddings - pad_token_id - 1`` tokens.
        pad_token_id: Id of the padding token; positions start at ``pad_token_id + 1``.
        type_vocab_size: Rows of the token-type table (only row 0 is used).
        hidden_dropout: Dropout of embeddings and layer outputs.
        attention_dropout: Dropout of attention probabilities, cross-attention included.
        layer_norm_eps: Epsilon of every LayerNorm.
        init_std: Spread of new matrices and tables; None scales that of matrices with the
            width, 0.8 / sqrt(fan-in).
        word_init_std: Spread of a new word embedding; None takes 0.02. A large one gives every
            word a code that a few minutes of training do not blur.
    """

    vocab_size: int = 50265
    hidden_size: int = 768
    num_layers: int = 12
    num_heads: int = 12
    intermediate_size: int = 3072
    max_position_embeddings: int = 514
    pad_token_id: int = 1
    type_vocab_size: int = 1
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    layer_norm_eps: float = 1e-5
    init_std: float | None = 0.02
    word_init_std: float | None = None
    local_init: bool = False

    def __post_init__(self) -> None:
        _positive(self, 'vocab_size', 'hidden_size', 'num_layers', 'num_heads')
        _positive(self, 'intermediate_size', 'max_position_embeddings', 'type_vocab_size')
        _rate(self, 'hidden_dropout', 'attention_dropout')
        _divides(self, 'hidden_size', self.hidden_size, 'num_heads', self.num_heads)
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(
                f'RobertaCfg.pad_token_id {self.pad_token_id} lies outside the vocabulary of '
                f'{self.vocab_size}'
            )

    @property
    def max_tokens(self) -> int:
        """Longest text, in tokens, that the position table covers."""
        return self.max_position_embeddings - self.pad_token_id - 1


@dataclass(frozen=True)
class FusionCfg:
    """Fusion in the backbone (FIBER, section 3.1).

    Args:
        num_blocks: How many of the last Swin blocks pair with as many of the last text
            layers; 0 builds two encoders that never meet.
        norm_i2t_query: Whether the image-to-text query passes a LayerNorm.
        fused_text_norm: Whether the last text layer keeps its closing LayerNorm in the
            two-way fused pass.
        gate_init: Start value of the gates ``alpha_i2t`` and ``alpha_t2i``.
    """

    num_blocks: int = 6
    norm_i2t_query: bool = False
    fused_text_norm: bool = True
    gate_init: float = 0.0

    def __post_init__(self) -> None:
        if not isinstance(self.num_blocks, int) or self.num_blocks < 0:
            raise ValueError(
                f'FusionCfg.num_blocks must be a whole number of at least 0, '
                f'got {self.num_blocks!r}'
            )


@dataclass(frozen=True)
class FiberCfg:
    """Everything that :class:`~fiber_mm.core.encoder.FiberEncoder` is built from.

    Args:
        swin: Image side.
        roberta: Text side; None builds the image side alone (``fusion.num_blocks`` is then 0).
        fusion: How the two meet.
        checkpoint: Whether blocks are recomputed in the backward pass instead of stored.
    """

    swin: SwinCfg = field(default_factory=SwinCfg)
    roberta: RobertaCfg | None = field(default_factory=RobertaCfg)
    fusion: FusionCfg = field(default_factory=FusionCfg)
    checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.roberta is None and self.fusion.num_blocks:
            raise ValueError(
                f'FiberCfg: {self.fusion.num_blocks} fused blocks need a text side; '
                'give roberta, or set fusion.num_blocks to 0'
            )
