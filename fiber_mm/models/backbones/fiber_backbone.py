"""FIBER's encoder as a registered backbone: dictionaries in, feature maps out."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.model import BaseModule
from torch import Tensor

from fiber_mm.core import FiberCfg, FiberEncoder, FusionCfg, RobertaCfg, SwinCfg
from fiber_mm.engine.stages import refuse_foreign, resize_tables_on_load
from fiber_mm.registry import MODELS
from fiber_mm.structures import FusedFeatures, ImageTrunk, TextTrunk


def dataclass_from_dict(cls: type, values: Mapping[str, Any] | None) -> Any:
    """Builds a config dataclass; a key that it does not have is an error naming the nearest.

    Raises: TypeError: for an unknown key.
    """
    values = dict(values or {})
    known = [f.name for f in dataclasses.fields(cls)]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f'; did you mean {near[0]!r}?' if near else ''
            raise TypeError(f'{cls.__name__} has no setting {key!r}{hint} It has {known}')
    return cls(**values)


def build_encoder(
    swin: Mapping[str, Any] | None,
    roberta: Mapping[str, Any] | None,
    fusion: Mapping[str, Any] | None,
    with_cp: bool = False,
) -> FiberEncoder:
    """A :class:`FiberEncoder` from three dictionaries; ``roberta=None`` leaves the text out."""
    if roberta is None:
        fusion = dict(fusion or {}, num_blocks=0)
    cfg = FiberCfg(
        swin=dataclass_from_dict(SwinCfg, swin),
        roberta=None if roberta is None else dataclass_from_dict(RobertaCfg, roberta),
        fusion=dataclass_from_dict(FusionCfg, fusion),
        checkpoint=with_cp,
    )
    return FiberEncoder(cfg)


@MODELS.register_module()
class FiberBackbone(BaseModule):
    """Fused image-text encoder, or a plain image backbone when the text side is left out.

    Args:
        swin: Settings of :class:`SwinCfg`.
        roberta: Settings of :class:`RobertaCfg`; None builds the image side alone, which
            then serves any mmdet detector (the gates are shut: a dual encoder's image half).
        fusion: Settings of :class:`FusionCfg`.
        out_indices: Stages, from 0, whose maps are handed on.
        with_cp: Recompute blocks in the backward pass to save memory.
        init_cfg: mmengine's initialisation, for example ``dict(type='Pretrained',
            checkpoint=...)`` with a checkpoint of the coarse stage, or of a detector with
            ``prefix='backbone.'``. Position-bias tables of other windows are resized.
    Raises: TypeError: for a setting that the dataclasses do not have.
    """

    def __init__(
        self,
        swin: Mapping[str, Any] | None = None,
        roberta: Mapping[str, Any] | None = None,
        fusion: Mapping[str, Any] | None = None,
        out_indices: Sequence[int] = (1, 2, 3),
        with_cp: bool = False,
        init_cfg: Any = None,
    ) -> None:
        super().__init__(init_cfg=init_cfg)
        self.encoder = build_encoder(swin, roberta, fusion, with_cp)
        self.encoder.register_load_state_dict_pre_hook(resize_tables_on_load)
        self.register_load_state_dict_pre_hook(refuse_foreign)
        stages = len(self.encoder.cfg.swin.depths)
        if not out_indices or any(not 0 <= i < stages for i in out_indices):
            raise ValueError(f'out_indices must name stages in 0..{stages - 1}, got {out_indices}')
        self.out_indices = tuple(out_indices)

    @property
    def out_channels(self) -> list[int]:
        """Channels of the maps that :meth:`forward` gives."""
        return [self.encoder.cfg.swin.width(i) for i in self.out_indices]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Maps of the image alone, gates shut.

        Args:
            images: (B, 3, H, W), normalised.
        Returns: (B, C_s, H_s, W_s) for each stage of ``out_indices``.
        """
        features = self.encoder.image_alone(self.encoder.image_trunk(images))
        return self.select(features.stage_maps)

    def fuse(self, image: ImageTrunk, text: TextTrunk) -> tuple[tuple[Tensor, ...], FusedFeatures]:
        """Maps of the fused image (``out_indices`` only), and everything else."""
        features = self.encoder.fuse(image, text)
        return self.select(features.stage_maps), features

    def select(self, stage_maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The maps of ``out_indices``."""
        return tuple(stage_maps[i] for i in self.out_indices)
