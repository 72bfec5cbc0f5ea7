"""RoBERTa encoder whose layers can have a cross-attention slot.

Module and parameter names are those of Hugging Face's ``RobertaModel``. Padding is masked by
adding -10000 to the scores, as in the transformers version that the original used.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fiber_mm.core.attention import Probe, attend, split_heads
from fiber_mm.core.config import RobertaCfg
from fiber_mm.core.linear import Linear, matrix_std


class Embeddings(nn.Module):
    """Words, positions and token type: (B, T) int64 -> (B, T, D)."""

    def __init__(self, cfg: RobertaCfg) -> None:
        super().__init__()
        self.cfg = cfg
        pad = cfg.pad_token_id
        width = cfg.hidden_size
        self.word_embeddings = nn.Embedding(cfg.vocab_size, width, padding_idx=pad)
        self.position_embeddings = nn.Embedding(cfg.max_position_embeddings, width, padding_idx=pad)
        self.token_type_embeddings = nn.Embedding(cfg.type_vocab_size, width)
        self.LayerNorm = nn.LayerNorm(width, eps=cfg.layer_norm_eps)
        self.dropout = nn.Dropout(cfg.hidden_dropout)

    def forward(self, input_ids: Tensor, start: Tensor | int = 0) -> Tensor:
        """Embeds ids; ``start`` unpadded tokens of the text have gone before."""
        if input_ids.shape[1] > self.cfg.max_tokens:
            raise ValueError(
                f'a text of {input_ids.shape[1]} tokens is longer than the {self.cfg.max_tokens} '
                'that the position table covers; split or truncate it'
            )
        pad = self.cfg.pad_token_id
        token = (input_ids != pad).long()
        positions = (token.cumsum(1) + start) * token + pad
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return self.dropout(self.LayerNorm(x + self.token_type_embeddings.weight[0]))


class SelfAttention(nn.Module):
    """Projections to heads; keys and values may come from another modality of another width."""

    probe: Probe | None = None  # see fiber_mm.core.recording

    def __init__(self, cfg: RobertaCfg, memory_width: int) -> None:
        super().__init__()
        self.heads, self.dropout = cfg.num_heads, cfg.attention_dropout
        self.query = Linear(cfg.hidden_size, cfg.hidden_size)
        self.key = Linear(memory_width, cfg.hidden_size)
        self.value = Linear(memory_width, cfg.hidden_size)

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of (B, S, memory_width), each (B, heads, S, d)."""
        return split_heads(self.key(x), self.heads), split_heads(self.value(x), self.heads)

    def forward(self, x: Tensor, memory: tuple[Tensor, Tensor], bias: Tensor | None) -> Tensor:
        """(B, T, D) attends to ``memory`` -> (B, T, D)."""
        rate = self.dropout if self.training else 0.0
        return attend(split_heads(self.query(x), self.heads), *memory, bias, rate, self.probe)


class Output(nn.Module):
    """Dense and dropout; the LayerNorm is applied by the layer, after the residual."""

    def __init__(self, width: int, cfg: RobertaCfg, norm: bool = True) -> None:
        super().__init__()
        self.dense = Linear(width, cfg.hidden_size)
        self.dropout = nn.Dropout(cfg.hidden_dropout)
        if norm:
            self.LayerNorm = nn.LayerNorm(cfg.hidden_size, eps=cfg.layer_norm_eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.dense(x))


class Attention(nn.Module):
    """Attention and its output projection, without residual and norm."""

    def __init__(self, cfg: RobertaCfg, memory_width: int, norm: bool = True) -> None:
        super().__init__()
        self.self = SelfAttention(cfg, memory_width)
        self.output = Output(cfg.hidden_size, cfg, norm)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); attends to itself unless ``memory`` is given."""
        return self.output(self.self(x, self.self.memory(x) if memory is None else memory, bias))


class Intermediate(nn.Module):
    """Dense and GELU (exact)."""

    def __init__(self, cfg: RobertaCfg) -> None:
        super().__init__()
        self.dense = Linear(cfg.hidden_size, cfg.intermediate_size)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.dense(x))


class RobertaLayer(nn.Module):
    """One layer; with ``image_width`` it has a gated cross-attention to image tokens.

    Args:
        cfg: Sizes.
        image_width: Width of the image tokens, None for a layer that sees text only.
        gate_init: Start value of ``alpha_t2i``.
    """

    def __init__(
        self, cfg: RobertaCfg, image_width: int | None = None, gate_init: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = Attention(cfg, cfg.hidden_size)
        self.intermediate = Intermediate(cfg)
        self.output = Output(cfg.intermediate_size, cfg)
        if image_width is not None:
            self.alpha_t2i = nn.Parameter(torch.full((1,), float(gate_init)))
            self.crossattention_t2i = Attention(cfg, image_width, norm=False)

    def forward(
        self,
        x: Tensor,
        bias: Tensor | None,
        image: Tensor | tuple[Tensor, Tensor] | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
        last_norm: bool = True,
    ) -> Tensor:
        """One layer.

        Args:
            x: (B, T, D).
            bias: additive mask of the self-attention, broadcastable to (B, 1, T, S).
            image: (B, N, image_width) tokens of the image, or their keys and values
                (``crossattention_t2i.self.memory``); None leaves the gate shut.
            memory: keys and values of the text so far, ``x`` included, when decoding.
            last_norm: whether the closing LayerNorm is applied.
        Returns: (B, T, D).
        """
        attended = self.attention(x, bias, memory)
        if image is not None:
            if isinstance(image, Tensor):
                image = self.crossattention_t2i.self.memory(image)
            cross = self.crossattention_t2i(attended, memory=image)
            attended = attended + self.alpha_t2i.to(cross.dtype) * cross
        x = self.attention.output.LayerNorm(x + attended)
        x = self.output(self.intermediate(x)) + x
        return self.output.LayerNorm(x) if last_norm else x


class RobertaEncoder(nn.Module):
    """Holds the layers under the name that checkpoints use."""

    def __init__(self, layers: list[RobertaLayer]) -> None:
        super().__init__()
        self.layer = nn.ModuleList(layers)


class Roberta(nn.Module):
    """Embeddings and layers; :class:`FiberEncoder` decides what runs when.

    Args:
        cfg: Sizes.
        image_widths: For each layer the width of the image tokens it attends to, or None.
        gate_init: Start value of the gates.
    """

    def __init__(
        self, cfg: RobertaCfg, image_widths: list[int | None], gate_init: float = 0.0
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.embeddings = Embeddings(cfg)
        self.encoder = RobertaEncoder([RobertaLayer(cfg, w, gate_init) for w in image_widths])
        self.init_weights()

    def init_weights(self) -> None:
        """Normal ``cfg.init_std`` for matrices and tables, zero for biases and padding rows."""
        cfg = self.cfg
        table_std = 0.02 if cfg.init_std is None else cfg.init_std
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=matrix_std(cfg.init_std, module.in_features))
                nn.init.zeros_(module.bias)
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=table_std)
        words = self.embeddings.word_embeddings
        if cfg.word_init_std is not None:
            nn.init.normal_(words.weight, std=cfg.word_init_std)
        with torch.no_grad():
            for table in (words, self.embeddings.position_embeddings):
                table.weight[table.padding_idx].zero_()
