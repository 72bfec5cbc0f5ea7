"""Swin Transformer on channels-last token maps of any size.

Module and parameter names are those of the official implementation (microsoft/Swin-Transformer),
so that converting a checkpoint is close to the identity. Maps are padded at the right and
bottom to whole windows **after** norm1 and then rolled, as in the original's detection code.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fiber_mm.core import window
from fiber_mm.core.attention import attend_with_bias
from fiber_mm.core.config import SwinCfg
from fiber_mm.core.linear import Linear, matrix_std

# Tokens that pass an MLP at once on a CPU: the hidden layer stays in its cache, and the products
# are still large enough to run at full rate (see SwinBlock.feed_forward).
PIECE = 2048
# Tokens whose windows are gathered and attend at once, likewise (see WindowAttention.forward).
WINDOW_PIECE = 4096


def drop_path(x: Tensor, rate: float, training: bool) -> Tensor:
    """Stochastic depth: drops whole samples of ``x`` (B, ...) and rescales the others."""
    if not training or rate == 0.0:
        return x
    keep = 1 - rate
    shape = (x.shape[0],) + (1,) * (x.ndim - 1)
    return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


class WindowAttention(nn.Module):
    """Multi-head attention within windows, with relative position bias.

    Args:
        dim: Channels.
        size: Side of a window.
        heads: Attention heads.
    """

    def __init__(self, dim: int, size: int, heads: int) -> None:
        super().__init__()
        self.size, self.heads = size, heads
        self.qkv = Linear(dim, 3 * dim)
        self.proj = Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * size - 1) ** 2, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        index = window.relative_position_index(size).flatten()
        self.register_buffer('relative_position_index', index, persistent=False)

    def bias(self) -> Tensor:
        """(heads, size**2, size**2), from the table."""
        rows = self.relative_position_bias_table.index_select(0, self.relative_position_index)
        return rows.t().reshape(self.heads, self.size**2, self.size**2)

    def forward(self, x: Tensor, plan: window.WindowPlan) -> Tensor:
        """Attends within each window.

        Where nothing is kept for a backward, a CPU does it in pieces that stay in its cache.
        Padding is zero where it meets the projection, so its query, key and value are that
        layer's bias: both projections run on the map alone.

        Args:
            x: (B, H, W, C).
            plan: Windows of that map.
        Returns: (B, H, W, C).
        """
        qkv = self.qkv(x).flatten(0, 2)
        fill, bias = self.qkv.bias.to(qkv.dtype), self.bias().to(qkv.dtype)[None]
        in_pieces = x.device.type == 'cpu' and not (qkv.requires_grad or bias.requires_grad)
        if not in_pieces:
            windows = window.to_windows(qkv, fill, plan)
        parts, start = [], 0
        for count, mask in plan.groups:
            shown = bias if mask is None else bias + mask.to(bias.dtype)
            step = max(1, WINDOW_PIECE // self.size**2) if in_pieces else count
            for first in range(0, count, step):
                stop = start + min(step, count - first) * self.size**2
                if in_pieces:
                    part = window.gather_windows(qkv, fill, plan, start, stop)
                else:
                    part = windows[start:stop]
                parts.append(self._attend(part, shown))
                start = stop
        out = parts[0] if len(parts) == 1 else torch.cat(parts)
        del qkv, parts, part  # large, and not needed any more
        return self.proj(window.from_windows(out, plan)).view(x.shape)

    def _attend(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """(W * N, 3 * C) queries, keys and values of W windows -> (W * N, C)."""
        qkv = qkv.view(-1, self.size**2, 3, self.heads, qkv.shape[-1] // (3 * self.heads))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # each (W, heads, N, d), views
        out = attend_with_bias(query, key, value, bias)
        return out.transpose(1, 2).reshape(len(qkv) * self.size**2, -1)


class Mlp(nn.Module):
    """Two linear layers with GELU (exact) between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden)
        self.fc2 = Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class SwinBlock(nn.Module):
    """Window attention and MLP, each with norm and residual.

    Args:
        attn: The block's attention, with or without a cross-attention slot (``fusion.py``).
        dim: Channels.
        shift: Tokens by which the windows are shifted; 0 in even blocks.
        hidden: Hidden width of the MLP.
        drop_path_rate: Stochastic depth of both residuals.
        shift_single_window: see :class:`SwinCfg`.
    """

    def __init__(
        self,
        attn: WindowAttention,
        dim: int,
        shift: int,
        hidden: int,
        drop_path_rate: float,
        shift_single_window: bool,
    ) -> None:
        super().__init__()
        self.shift, self.drop_path_rate = shift, drop_path_rate
        self.shift_single_window = shift_single_window
        self.norm1 = nn.LayerNorm(dim)
        self.attn = attn
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, hidden)

    def shift_for(self, height: int, width: int) -> int:
        """Shift used on a map of this size."""
        if not self.shift_single_window and min(height, width) <= self.attn.size:
            return 0
        return self.shift

    def window_attention(self, x: Tensor, plans: WindowPlans) -> Tensor:
        """norm1, then attention in (shifted) windows: (B, H, W, C) -> (B, H, W, C)."""
        shape = x.shape[:3]
        plan = plans(*shape, self.attn.size, self.shift_for(*shape[1:]), x.device)
        return self.attn(self.norm1(x), plan)

    def forward(
        self,
        x: Tensor,
        plans: WindowPlans,
        text: Tensor | None = None,
        text_bias: Tensor | None = None,
    ) -> Tensor:
        """One block.

        Args:
            x: (B, H, W, C).
            plans: Where the plans of windows are made and kept.
            text: (B, T, D) tokens to attend to, only for blocks with a fused attention;
                None leaves the gate shut.
            text_bias: (B, 1, 1, T) additive mask of the text.
        Returns: (B, H, W, C).
        """
        attended = self.window_attention(x, plans)
        if text is not None:
            attended = self.attn.fuse(attended, text, text_bias)
        return self.feed_forward(x + drop_path(attended, self.drop_path_rate, self.training))

    def feed_forward(self, x: Tensor) -> Tensor:
        """norm2, MLP and residual: (B, H, W, C) -> (B, H, W, C).

        Where nothing is kept for a backward, a CPU does it in pieces that stay in its cache.
        """
        keeps = torch.is_grad_enabled() and (
            x.requires_grad
            or any(p.requires_grad for p in (*self.norm2.parameters(), *self.mlp.parameters()))
        )
        if keeps or self.training or x.device.type != 'cpu':
            return x + drop_path(self.mlp(self.norm2(x)), self.drop_path_rate, self.training)
        x = x.contiguous()
        out = torch.empty_like(x)
        count = max(1, x.shape[:3].numel() // PIECE)
        pieces, rooms = (t.flatten(0, 2).tensor_split(count) for t in (x, out))
        for piece, room in zip(pieces, rooms):
            torch.add(piece, self.mlp(self.norm2(piece)), out=room)
        return out


class WindowPlans:
    """Plans of windows by map size, made once and kept outside of the state dict."""

    def __init__(self, capacity: int = 32) -> None:
        self.capacity, self.made = capacity, {}

    def __call__(
        self, batch: int, height: int, width: int, size: int, shift: int, device: torch.device
    ) -> window.WindowPlan:
        """See :func:`fiber_mm.core.window.plan_windows`."""
        key = (batch, height, width, size, shift, device)
        if key not in self.made:
            while len(self.made) >= self.capacity:  # oldest first
                self.made.pop(next(iter(self.made)))
            with torch.inference_mode(False):
                self.made[key] = window.plan_windows(*key)
        return self.made[key]

    def __deepcopy__(self, memo) -> WindowPlans:
        return WindowPlans(self.capacity)

    def __reduce__(self):
        return WindowPlans, (self.capacity,)


class PatchEmbed(nn.Module):
    """Image to tokens: (B, 3, H, W) -> (B, H/patch, W/patch, C), zero-padded to whole patches."""

    def __init__(self, patch: int, channels: int, dim: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        bottom, right = -height % self.patch, -width % self.patch
        if bottom or right:
            image = F.pad(image, (0, right, 0, bottom))
        return self.norm(self.proj(image).permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """2x2 neighbours to one token: (B, H, W, C) -> (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = Linear(4 * dim, 2 * dim, bias=False)
        self.norm = nn.LayerNorm(4 * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = window.pad_to_multiple(x, 2)
        # order of the official implementation: down first, then right
        parts = [x[:, row::2, col::2] for col in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1)))


class SwinStage(nn.Module):
    """Blocks of one resolution, and the way down to the next (not applied by ``forward``)."""

    def __init__(self, blocks: list[SwinBlock], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample


class SwinTransformer(nn.Module):
    """Patch embedding, stages and norms; :class:`FiberEncoder` decides what runs when.

    Args:
        cfg: Sizes and switches.
        make_attention: ``(stage, block, dim, heads) -> WindowAttention``; the encoder gives
            fused blocks an attention with a cross-attention slot.
    """

    def __init__(self, cfg: SwinCfg, make_attention) -> None:
        super().__init__()
        self.cfg = cfg
        self.plans = WindowPlans()
        self.patch_embed = PatchEmbed(cfg.patch_size, cfg.in_channels, cfg.embed_dim)
        total = sum(cfg.depths)
        rates = iter([cfg.drop_path_rate * i / max(total - 1, 1) for i in range(total)])
        self.layers = nn.ModuleList()
        for stage, (depth, heads) in enumerate(zip(cfg.depths, cfg.num_heads)):
            dim = cfg.width(stage)
            blocks = [
                SwinBlock(
                    attn=make_attention(stage, block, dim, heads),
                    dim=dim,
                    shift=cfg.window_size // 2 if block % 2 else 0,
                    hidden=int(dim * cfg.mlp_ratio),
                    drop_path_rate=next(rates),
                    shift_single_window=cfg.shift_single_window,
                )
                for block in range(depth)
            ]
            last = stage == len(cfg.depths) - 1
            self.layers.append(SwinStage(blocks, None if last else PatchMerging(dim)))
        for stage in cfg.output_norms:
            self.add_module(f'norm{stage}', nn.LayerNorm(cfg.width(stage)))
        self.norm = nn.LayerNorm(cfg.width(len(cfg.depths) - 1)) if cfg.final_norm else None
        self.init_weights()
        self.freeze()

    def init_weights(self) -> None:
        """Truncated normal ``cfg.init_std`` for matrices, zero for biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(
                    module.weight, std=matrix_std(self.cfg.init_std, module.in_features)
                )
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def frozen_modules(self) -> list[nn.Module]:
        """The parts that ``cfg.frozen_stages`` freezes."""
        frozen = self.cfg.frozen_stages
        return [] if frozen < 0 else [self.patch_embed, *self.layers[:frozen]]

    def freeze(self) -> None:
        """Stops the gradients of the frozen stages and keeps them in eval mode."""
        for module in self.frozen_modules():
            module.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> SwinTransformer:
        super().train(mode)
        for module in self.frozen_modules():
            module.eval()
        return self

    def stage_map(self, x: Tensor, stage: int) -> Tensor:
        """(B, H, W, C) after the last block of ``stage`` -> (B, C, H, W), normed if it has one."""
        if stage in self.cfg.output_norms:
            x = getattr(self, f'norm{stage}')(x)
        return x.permute(0, 3, 1, 2)
