"""FIBER's encoder as verbs: two trunks, and a fusion part that can be shut.

``image_trunk`` + ``text_trunk`` + ``fuse`` is the whole forward pass; trunks are values that
can be kept and fused with many partners (FIBER, section 3.1 and figure 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fiber_mm.core.attention import PADDING_BIAS, padding_bias
from fiber_mm.core.config import FiberCfg
from fiber_mm.core.fusion import FusedWindowAttention, FusionPlan
from fiber_mm.core.local_init import local_windows, local_words
from fiber_mm.core.roberta import Roberta
from fiber_mm.core.swin import SwinTransformer, WindowAttention
from fiber_mm.structures import FusedFeatures, ImageFeatures, ImageTrunk, TextTrunk


class FiberEncoder(nn.Module):
    """A Swin Transformer and a RoBERTa that exchange information in their last blocks.

    Args:
        cfg: Sizes and switches.
    """

    def __init__(self, cfg: FiberCfg) -> None:
        super().__init__()
        self.cfg = cfg
        swin, roberta, fusion = cfg.swin, cfg.roberta, cfg.fusion
        layers = roberta.num_layers if roberta else 0
        self.plan = FusionPlan(swin.depths, layers, fusion.num_blocks)

        def make_attention(stage: int, block: int, dim: int, heads: int) -> WindowAttention:
            if not self.plan.fuses(stage, block):
                return WindowAttention(dim, swin.window_size, heads)
            return FusedWindowAttention(
                dim,
                swin.window_size,
                heads,
                roberta.hidden_size,
                fusion.norm_i2t_query,
                fusion.gate_init,
            )

        self.image = SwinTransformer(swin, make_attention)
        if roberta is not None:
            widths = [None] * layers
            for pair in self.plan.pairs:
                widths[pair.layer] = swin.width(pair.stage)
            self.text = Roberta(roberta, widths, fusion.gate_init)
        if swin.local_init:
            local_windows(self.image)
        if roberta is not None and roberta.local_init:
            local_words(self.text)

    # ---- helpers ---------------------------------------------------------------------------

    def _run(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """Calls ``module``, recomputing it in the backward pass if so configured."""
        if self.cfg.checkpoint and self.training and torch.is_grad_enabled():
            return checkpoint(module, *args, use_reentrant=False, **kwargs)
        return module(*args, **kwargs)

    def _next_stage(self, x: Tensor, stage: int, block: int, maps: list[Tensor]) -> Tensor:
        """After block ``block`` of ``stage``: closes the stage if that was its last."""
        layer = self.image.layers[stage]
        if block < len(layer.blocks) - 1:
            return x
        maps.append(self.image.stage_map(x, stage))
        return x if layer.downsample is None else layer.downsample(x)

    # ---- trunks ----------------------------------------------------------------------------

    def image_trunk(self, image: Tensor) -> ImageTrunk:
        """Everything up to the first fused block.

        Args:
            image: (B, 3, H, W), normalised; any size, padded inside.
        Raises: ValueError: if ``image`` has another number of dimensions or channels.
        """
        if image.ndim != 4 or image.shape[1] != self.cfg.swin.in_channels:
            raise ValueError(
                f'images of shape (B, {self.cfg.swin.in_channels}, H, W) are wanted, '
                f'got {tuple(image.shape)}'
            )
        x = self._run(self.image.patch_embed, image)
        maps: list[Tensor] = []
        for stage, block in self.plan.alone:
            x = self._run(self.image.layers[stage].blocks[block], x, self.image.plans)
            x = self._next_stage(x, stage, block, maps)
        return ImageTrunk(x, tuple(maps))

    def text_trunk(self, input_ids: Tensor, attention_mask: Tensor) -> TextTrunk:
        """Everything up to the first fused layer.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) bool (or 0/1), True for tokens.
        Raises: ValueError: if the shapes differ, or T is beyond the position table.
        """
        if input_ids.ndim != 2 or input_ids.shape != attention_mask.shape:
            raise ValueError(
                'input_ids and attention_mask of one shape (B, T) are wanted, '
                f'got {tuple(input_ids.shape)} and {tuple(attention_mask.shape)}'
            )
        mask = attention_mask.bool()
        x = self.text.embeddings(input_ids)
        bias = padding_bias(mask, x.dtype)
        for layer in self.text.encoder.layer[: self.plan.text_start]:
            x = self._run(layer, x, bias)
        return TextTrunk(x, mask)

    # ---- the rest of the way -----------------------------------------------------------------

    def fuse(self, image: ImageTrunk, text: TextTrunk) -> FusedFeatures:
        """The fused blocks, gates open; both trunks hold the same number of samples.

        Raises: ValueError: if they do not; repeat or select one side first.
        """
        if len(image.tokens) != len(text.tokens):
            raise ValueError(
                f'{len(image.tokens)} images cannot be fused with {len(text.tokens)} texts; '
                'use repeat or select to pair them'
            )
        x, t = image.tokens, text.tokens
        maps = list(image.stage_maps)
        bias = padding_bias(text.mask, t.dtype)
        for pair in self.plan.pairs:
            last = pair is self.plan.pairs[-1]
            block = self.image.layers[pair.stage].blocks[pair.block]
            layer = self.text.encoder.layer[pair.layer]
            fused = self._run(block, x, self.image.plans, t, bias)
            norm = self.cfg.fusion.fused_text_norm or not last
            t = self._run(layer, t, bias, x.flatten(1, 2), last_norm=norm)
            x = self._next_stage(fused, pair.stage, pair.block, maps)
        return FusedFeatures(tuple(maps), x.flatten(1, 2), t, text.mask)

    def image_alone(self, trunk: ImageTrunk) -> ImageFeatures:
        """The image's remaining blocks with the gates shut (dual encoder)."""
        x = trunk.tokens
        maps = list(trunk.stage_maps)
        for pair in self.plan.pairs:
            x = self._run(self.image.layers[pair.stage].blocks[pair.block], x, self.image.plans)
            x = self._next_stage(x, pair.stage, pair.block, maps)
        if self.image.norm is not None:
            x = self.image.norm(x)
        return ImageFeatures(tuple(maps), x.flatten(1, 2))

    def text_alone(self, trunk: TextTrunk) -> Tensor:
        """The text's remaining layers with the gates shut: (B, T, D)."""
        x = trunk.tokens
        bias = padding_bias(trunk.mask, x.dtype)
        for layer in self.text.encoder.layer[self.plan.text_start :]:
            x = self._run(layer, x, bias)
        return x

    def forward(self, image: Tensor, input_ids: Tensor, attention_mask: Tensor) -> FusedFeatures:
        """The one-piece forward pass: trunks and fusion."""
        return self.fuse(self.image_trunk(image), self.text_trunk(input_ids, attention_mask))

    # ---- captioning --------------------------------------------------------------------------

    def decode_step(
        self,
        input_ids: Tensor,
        image_tokens: Sequence[Tensor],
        cache: dict[str, Any] | None = None,
    ) -> tuple[Tensor, dict[str, Any]]:
        """Causal text layers that attend to the image (t2i only), with key/value caches.

        Args:
            input_ids: (B, T) the tokens since the last call; a text is padded at its end only.
            image_tokens: For each fused layer the tokens it attends to, (B, N, width of its
                block); the captioner projects the last stage to these widths.
            cache: What the call before returned; None for the first tokens.
        Returns: (B, T, D) and the cache for the next call. To re-order beams, index dimension
            0 of every tensor in the cache (:meth:`reorder_cache`).
        Raises: ValueError: if ``image_tokens`` is not one entry per fused layer, or the text
            becomes longer than the position table.
        """
        if len(image_tokens) != len(self.plan.pairs):
            raise ValueError(
                f'{len(self.plan.pairs)} fused layers need as many image token tensors, '
                f'got {len(image_tokens)}'
            )
        layers = self.text.encoder.layer
        token = input_ids != self.text.cfg.pad_token_id
        if cache is None:
            images = {
                pair.layer: layers[pair.layer].crossattention_t2i.self.memory(tokens)
                for pair, tokens in zip(self.plan.pairs, image_tokens)
            }
            cache = {'image': images, 'text': {}, 'token': token[:, :0]}
        past = cache['token']
        length, limit = past.shape[1] + input_ids.shape[1], self.text.cfg.max_tokens
        if length > limit:
            raise ValueError(
                f'the text grows to {length} tokens, more than the {limit} that the position table '
                'covers; stop before'
            )
        token = torch.cat([past, token], 1)
        x = self.text.embeddings(input_ids, past.sum(1, keepdim=True))
        size, total = input_ids.shape[1], token.shape[1]
        seen = torch.ones(size, total, dtype=torch.bool, device=x.device).tril(total - size)
        bias = (~(seen & token[:, None, None, :])).to(x.dtype) * PADDING_BIAS
        texts = {}
        for index, layer in enumerate(layers):
            memory = layer.attention.self.memory(x)
            if index in cache['text']:
                memory = tuple(torch.cat(kv, 2) for kv in zip(cache['text'][index], memory))
            texts[index] = memory
            x = layer(x, bias, cache['image'].get(index), memory)
        return x, {'image': cache['image'], 'text': texts, 'token': token}

    @staticmethod
    def reorder_cache(cache: dict[str, Any], order: Tensor) -> dict[str, Any]:
        """The cache of the beams ``order`` (int64 indices into dimension 0)."""

        def pick(memory: dict[int, tuple[Tensor, Tensor]]) -> dict[int, tuple[Tensor, ...]]:
            return {k: tuple(t.index_select(0, order) for t in v) for k, v in memory.items()}

        return {
            'image': pick(cache['image']),
            'text': pick(cache['text']),
            'token': cache['token'].index_select(0, order),
        }
