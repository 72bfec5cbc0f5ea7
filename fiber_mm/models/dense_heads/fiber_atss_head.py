"""Detection head of FIBER's fine stage: boxes from ATSS, classes from the prompt's tokens."""

import dataclasses
import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmdet.structures.bbox import get_box_tensor
from mmdet.utils import reduce_mean
from mmengine.model import BaseModule
from mmengine.structures import InstanceData
from torch import Tensor

from fiber_mm.models.backbones.fiber_backbone import dataclass_from_dict
from fiber_mm.models.losses import giou_loss, token_focal_loss
from fiber_mm.models.task_modules.atss_assigner import Assignment, atss_assign
from fiber_mm.models.task_modules.box_coder import decode_boxes
from fiber_mm.models.task_modules.postprocess import (
    best_pairs,
    best_with_ties,
    class_wise_nms,
    clip_boxes,
)
from fiber_mm.models.utils.token_maps import token_to_class_scores
from fiber_mm.registry import MODELS, TASK_UTILS

from .dyhead_tower import DyHeadTower

MAX_LOGIT = 50000.0
# Different image sizes whose anchors are kept.
ANCHOR_CACHE = 32


class HeadOutputs(NamedTuple):
    """What the head says of every anchor, a list entry per pyramid level."""

    token_logits: list[Tensor]  # (B, H * W, T)
    bbox_preds: list[Tensor]  # (B, 4, H, W)
    centernesses: list[Tensor]  # (B, 1, H, W) logits


class Scale(nn.Module):
    """Learned factor of one level's box deltas; (1,) as in the checkpoints, mmcv's is ()."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> the same."""
        return x * self.scale


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """``train_cfg`` of the head.

    Attributes:
        topk: Candidates of a box on each level.
        alpha, gamma: Of the token focal loss.
        bbox_weight: Factor of the box loss.
        no_object_token: Token that anchors without a box learn, as released: it matters only
            for prompts that fill all 256 tokens, where it is the last. None: no such token.
    """

    topk: int = 9
    alpha: float = 0.25
    gamma: float = 2.0
    bbox_weight: float = 2.0
    no_object_token: int | None = 255


@dataclasses.dataclass(frozen=True)
class TestSettings:
    """``test_cfg`` of the head.

    Attributes:
        score_thr: Class scores must exceed it.
        nms_pre: Best candidates of each level, ranked by class score x centerness.
        nms: ``iou_threshold`` of the class-wise suppression.
        max_per_img: Best boxes of an image; those that equal the last one stay, too.
        min_bbox_size: Shortest side in pixels of the network input.
        box_end: 'exclusive' adds 1 to x2 and y2 after rescaling (COCO-style evaluation),
            'inclusive' leaves the last pixel inside of the box (LVIS, Flickr30k, RefCOCO).
        joint_chunks: Chunks of a long vocabulary share one ranking, suppression and limit;
            False gives each its own, as the released LVIS evaluation does.
    """

    __test__ = False  # for pytest: this is no test class

    score_thr: float = 0.05
    nms_pre: int = 1000
    nms: dict = dataclasses.field(default_factory=lambda: dict(type='nms', iou_threshold=0.6))
    max_per_img: int = 100
    min_bbox_size: float = 0
    box_end: str = 'exclusive'
    joint_chunks: bool = True

    def __post_init__(self) -> None:
        if self.box_end not in ('exclusive', 'inclusive'):
            raise ValueError(f"box_end is 'exclusive' or 'inclusive', not {self.box_end!r}")
        known = {'type', 'iou_threshold'}
        if self.nms.get('type', 'nms') != 'nms' or {'type', *self.nms} != known:
            raise ValueError(f"nms must be dict(type='nms', iou_threshold=...), not {self.nms}")


def _flat(maps: Sequence[Tensor]) -> Tensor:
    """Maps (B, C, H_l, W_l) of all levels -> (B, A, C) in fp32."""
    return torch.cat([m.float().permute(0, 2, 3, 1).flatten(1, 2) for m in maps], dim=1)


def _padded(rows: Sequence[Tensor]) -> Tensor:
    """Rows (G_i, ...) of each image -> (B, max G, ...), at least one, padded with 0."""
    most = max(1, max(len(r) for r in rows))
    return torch.stack([torch.cat([r, r.new_zeros(most - len(r), *r.shape[1:])]) for r in rows])


def centerness_targets(anchors: Tensor, boxes: Tensor) -> Tensor:
    """How central an anchor lies in its box: (..., 4), (..., 4) xyxy -> (...) from 0 to 1.

    0 for anchors whose centre is outside.
    """
    centres = (anchors[..., :2] + anchors[..., 2:]) / 2
    before, after = centres - boxes[..., :2], boxes[..., 2:] - centres
    near, far = torch.minimum(before, after), torch.maximum(before, after)
    inside = (near > 0).all(-1)
    ratio = near / far.where(near > 0, 1)
    return ratio.prod(-1).where(inside, 0).sqrt()


@MODELS.register_module()
class FiberATSSHead(BaseModule):
    """Tower, projections, losses and post-processing (FIBER's fine stage; GLIP's head).

    Args:
        in_channels: Channels of the pyramid.
        feat_channels: Channels of the tower.
        text_channels: Width of the text encoder.
        num_blocks: Blocks of the tower.
        num_groups: Groups of its normalisations.
        strides: Strides of the pyramid levels.
        anchor_generator: Config of mmdet's ``AnchorGenerator``, one anchor per position; None
            gives the released squares, 8 strides wide.
        prior_prob: Initial probability of every token.
        fp32_training: Deformable convolutions in fp32 in training, also under autocast.
        with_checkpoint: Recompute the tower in the backward.
        near_identity: Start the tower near the identity; see :class:`DyHeadTower`.
        train_cfg: See :class:`TrainSettings`.
        test_cfg: See :class:`TestSettings`.
        init_cfg: Of ``BaseModule``.
    """

    def __init__(
        self,
        in_channels: int = 256,
        feat_channels: int = 256,
        text_channels: int = 768,
        num_blocks: int = 6,
        num_groups: int = 16,
        strides: Sequence[int] = (8, 16, 32, 64, 128),
        anchor_generator: dict | None = None,
        prior_prob: float = 0.01,
        fp32_training: bool = True,
        with_checkpoint: bool = False,
        near_identity: bool = False,
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.train_settings = dataclass_from_dict(TrainSettings, train_cfg)
        self.test_settings = dataclass_from_dict(TestSettings, test_cfg)
        self.prior_generator = TASK_UTILS.build(
            anchor_generator
            or dict(
                type='mmdet.AnchorGenerator',
                strides=list(strides),
                ratios=[1.0],
                octave_base_scale=8,
                scales_per_octave=1,
                center_offset=0.5,
            )
        )
        if set(self.prior_generator.num_base_priors) != {1}:
            raise ValueError(
                'FiberATSSHead has one anchor per position, but anchor_generator makes '
                f'{self.prior_generator.num_base_priors}: use one ratio and one scale'
            )
        self._anchors: OrderedDict = OrderedDict()

        self.dyhead_tower = DyHeadTower(
            in_channels,
            feat_channels,
            num_blocks,
            num_groups,
            fp32_training,
            with_checkpoint,
            near_identity,
        )
        self.bbox_pred = nn.Conv2d(feat_channels, 4, kernel_size=1)
        self.centerness = nn.Conv2d(feat_channels, 1, kernel_size=1)
        self.dot_product_projection_text = nn.Linear(text_channels, feat_channels)
        self.log_scale = nn.Parameter(torch.zeros(1))
        self.bias_lang = nn.Parameter(torch.zeros(text_channels))
        self.bias0 = nn.Parameter(torch.full((1,), -math.log((1 - prior_prob) / prior_prob)))
        self.scales = nn.ModuleList(Scale() for _ in strides)
        for layer in (self.bbox_pred, self.centerness):
            nn.init.normal_(layer.weight, 0, 0.01)
            nn.init.zeros_(layer.bias)

    def forward(self, feats: Sequence[Tensor], text: Tensor, text_mask: Tensor) -> HeadOutputs:
        """Run the tower and the projections.

        Args:
            feats: Pyramid maps (B, C, H_l, W_l), fine to coarse.
            text: (B, T, D) text features; padding must be 0.
            text_mask: (B, T) bool. The logits of padded tokens are computed like all others.

        Raises:
            ValueError: If the number of maps or the width of the text does not fit.
        """
        if len(feats) != len(self.scales):
            raise ValueError(f'the head has {len(self.scales)} levels, but got {len(feats)} maps')
        if text.shape[:2] != text_mask.shape or text.shape[-1] != self.bias_lang.shape[0]:
            raise ValueError(
                f'text must be (B, T, {self.bias_lang.shape[0]}) and text_mask (B, T), not '
                f'{tuple(text.shape)} and {tuple(text_mask.shape)}'
            )
        feats = self.dyhead_tower(feats)
        tokens, bias = self._project_text(text)
        outputs = HeadOutputs([], [], [])
        for feat, scale in zip(feats, self.scales):
            rows = feat.permute(0, 2, 3, 1).flatten(1, 2)  # (B, H * W, C)
            logits = torch.matmul(rows, tokens.transpose(1, 2)) + bias
            outputs.token_logits.append(logits.clamp(-MAX_LOGIT, MAX_LOGIT))
            outputs.bbox_preds.append(scale(self.bbox_pred(feat)))
            outputs.centernesses.append(self.centerness(feat))
        return outputs

    def _project_text(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T, D) -> (B, T, C) that maps are multiplied with, (B, 1, T) bias; both in fp32."""
        with torch.autocast(text.device.type, enabled=False):
            text = F.normalize(text.float(), dim=-1)
            tokens = self.dot_product_projection_text(text / 2) / self.log_scale.exp()
            return tokens, (text @ self.bias_lang + self.bias0)[:, None]

    def anchors(self, sizes: Sequence[tuple[int, int]], device: torch.device) -> list[Tensor]:
        """Anchors (H * W, 4) of each level as inclusive corners; do not write into them.

        Args:
            sizes: (H, W) of each level.
            device: Where they are wanted.
        """
        key = (tuple((int(h), int(w)) for h, w in sizes), str(device))
        if key not in self._anchors:
            grids = self.prior_generator.grid_priors(key[0], device=device)
            shrink = torch.tensor([0.0, 0.0, 1.0, 1.0]).to(device)
            self._anchors[key] = [grid - shrink for grid in grids]
            if len(self._anchors) > ANCHOR_CACHE:
                self._anchors.popitem(last=False)
        self._anchors.move_to_end(key)
        return self._anchors[key]

    def loss(
        self,
        feats: Sequence[Tensor],
        text: Tensor,
        text_mask: Tensor,
        batch_data_samples: Sequence,
    ) -> dict[str, Tensor]:
        """Losses of a batch; see :meth:`loss_by_outputs`.

        Args:
            feats: Pyramid maps.
            text: (B, T, D).
            text_mask: (B, T) bool.
            batch_data_samples: ``DetDataSample`` of each image; ``gt_instances`` holds
                ``bboxes`` (G, 4), inclusive corners in pixels of the network input, and
                ``positive_map`` (G, T) bool.
        """
        outputs = self(feats, text, text_mask)
        instances = [sample.gt_instances for sample in batch_data_samples]
        return self.loss_by_outputs(
            outputs,
            text_mask,
            [get_box_tensor(i.bboxes) for i in instances],
            [i.positive_map for i in instances],
        )

    def assign(
        self, outputs: HeadOutputs, boxes: Sequence[Tensor]
    ) -> tuple[Assignment, Tensor, Tensor]:
        """Assign ground-truth boxes to anchors.

        Args:
            outputs: Of the head (only the sizes matter).
            boxes: (G_i, 4) of each image.

        Returns:
            The assignment, the anchors (A, 4), and each anchor's box (B, A, 4), which is
            meaningless where the anchor is not positive.
        """
        maps = outputs.bbox_preds
        levels = self.anchors([m.shape[2:] for m in maps], maps[0].device)
        anchors = torch.cat(levels)
        boxes = [b.float() for b in boxes]
        padded = _padded(boxes)
        valid = _padded([torch.ones_like(b[:, 0], dtype=torch.bool) for b in boxes])
        found = atss_assign(
            anchors, [len(level) for level in levels], padded, valid, self.train_settings.topk
        )
        return found, anchors, padded.gather(1, found.matched[..., None].expand(-1, -1, 4))

    def loss_by_outputs(
        self,
        outputs: HeadOutputs,
        text_mask: Tensor,
        boxes: Sequence[Tensor],
        positive_maps: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Token focal loss, GIoU loss and centerness loss, all in fp32.

        The three are divided by means over the ranks: the number of positive anchors (at
        least 1) and, for boxes, the sum of the centerness targets that weigh them. Anchors are
        never picked out by index, so nothing waits for the device.

        Args:
            outputs: Of the head.
            text_mask: (B, T) bool.
            boxes: (G_i, 4) of each image, inclusive corners; G_i may be 0.
            positive_maps: (G_i, T) bool of each image: the tokens of each box.

        Returns:
            ``loss_cls``, ``loss_bbox``, ``loss_centerness``.

        Raises:
            ValueError: If the token maps do not fit boxes or prompt.
        """
        tokens = text_mask.shape[1]
        for box, token_map in zip(boxes, positive_maps):
            if token_map.shape != (len(box), tokens):
                raise ValueError(
                    f'{len(box)} boxes and a prompt of {tokens} tokens need a positive_map of '
                    f'{(len(box), tokens)}, not {tuple(token_map.shape)}'
                )
        settings = self.train_settings
        with torch.autocast(text_mask.device.type, enabled=False):
            found, anchors, matched = self.assign(outputs, boxes)
            positive = found.positive
            centered = centerness_targets(anchors, matched).where(positive, 0)
            totals = reduce_mean(torch.stack([positive.sum().float(), centered.sum()]))
            num_positive = totals[0].clamp(min=1)
            # Without positives both sums are 0; every rank divides by the same number.
            box_norm = totals[1].where(totals[1] > 0, 1)

            predicted = decode_boxes(_flat(outputs.bbox_preds), anchors)
            overlap = giou_loss(predicted, matched.where(positive[..., None], anchors))
            logits = _flat(outputs.centernesses)[..., 0]
            central = F.binary_cross_entropy_with_logits(logits, centered, reduction='none')
            return dict(
                loss_cls=self._token_loss(outputs, text_mask, found, positive_maps) / num_positive,
                loss_bbox=settings.bbox_weight * (overlap * centered).sum() / box_norm,
                loss_centerness=(central * positive).sum() / num_positive,
            )

    def _token_loss(
        self,
        outputs: HeadOutputs,
        text_mask: Tensor,
        found: Assignment,
        positive_maps: Sequence[Tensor],
    ) -> Tensor:
        """Sum of the focal loss over all levels."""
        settings = self.train_settings
        token_map = _padded([m.bool() for m in positive_maps])  # (B, G, T)
        image = torch.arange(len(token_map), device=token_map.device)[:, None]
        sizes = [logits.shape[1] for logits in outputs.token_logits]
        total = 0
        for logits, positive, matched in zip(
            outputs.token_logits, found.positive.split(sizes, 1), found.matched.split(sizes, 1)
        ):
            targets = token_map[image, matched] & positive[..., None]
            token = settings.no_object_token
            if token is not None and token == targets.shape[-1] - 1:
                targets[..., token] |= ~positive
            total = total + token_focal_loss(
                logits, targets, text_mask, settings.alpha, settings.gamma
            )
        return total

    def predict_by_outputs(
        self,
        chunks: Sequence[HeadOutputs],
        token_maps: Sequence[Sequence[Tensor]],
        class_ids: Sequence[Sequence[Tensor]],
        batch_img_metas: Sequence[dict],
        cfg: dict | None = None,
        rescale: bool = True,
    ) -> list[InstanceData]:
        """Final boxes of each image.

        Args:
            chunks: Outputs of the head for each chunk of the vocabulary.
            token_maps: For each chunk and image (C, T) bool: the tokens of each class.
            class_ids: For each chunk and image (C,) int64: the label of each class.
            batch_img_metas: Of each image ``img_shape`` (h, w) of the unpadded network input
                and, to rescale, ``scale_factor`` (w, h) = network input / original, or
                ``ori_shape`` (h, w).
            cfg: Replaces the settings of ``test_cfg``.
            rescale: Return boxes in pixels of the original image.

        Returns:
            ``bboxes`` (N, 4) xyxy, ``scores`` (N,) and ``labels`` (N,), best first.
        """
        cfg = self.test_settings if cfg is None else dataclass_from_dict(TestSettings, cfg)
        groups = [range(len(chunks))] if cfg.joint_chunks else [[i] for i in range(len(chunks))]
        maps = chunks[0].bbox_preds
        anchors = self.anchors([m.shape[2:] for m in maps], maps[0].device)
        results = []
        for image, meta in enumerate(batch_img_metas):
            parts = [
                self._predict_image(
                    [(chunks[i], token_maps[i][image], class_ids[i][image]) for i in group],
                    image,
                    anchors,
                    meta['img_shape'],
                    cfg,
                )
                for group in groups
            ]
            boxes, scores, labels = (torch.cat(column) for column in zip(*parts))
            if len(parts) > 1:
                scores, order = scores.sort(descending=True, stable=True)
                boxes, labels = boxes[order], labels[order]
            results.append(
                InstanceData(
                    bboxes=self._finish_boxes(boxes, meta, cfg, rescale),
                    scores=scores,
                    labels=labels,
                )
            )
        return results

    def _predict_image(
        self,
        chunks: Sequence[tuple[HeadOutputs, Tensor, Tensor]],
        image: int,
        anchors: Sequence[Tensor],
        img_shape: tuple[int, int],
        cfg: TestSettings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (N, 4) in the network input, scores and labels (N,) of one image, best first."""
        ranks, boxes, labels = [], [], []
        for level, level_anchors in enumerate(anchors):
            candidates = [
                self._candidates(outputs, token_map, ids, image, level, level_anchors, cfg)
                for outputs, token_map, ids in chunks
            ]
            rank, box, label = (torch.cat(column) for column in zip(*candidates))
            if len(candidates) > 1 and len(rank) > cfg.nms_pre:
                rank, best = rank.topk(cfg.nms_pre)
                box, label = box[best], label[best]
            ranks.append(rank)
            boxes.append(box)
            labels.append(label)
        rank, box, label = torch.cat(ranks), torch.cat(boxes), torch.cat(labels)
        box = clip_boxes(box, *img_shape[:2])
        keep = (rank >= 0) & (box[:, 2:] - box[:, :2] + 1 >= cfg.min_bbox_size).all(-1)
        rank, box, label = rank[keep], box[keep], label[keep]
        keep = class_wise_nms(box, rank, label, cfg.nms['iou_threshold'])
        score = rank[keep].sqrt()
        best = best_with_ties(score, cfg.max_per_img)
        keep = keep[best]
        return box[keep], score[best], label[keep]

    def _candidates(
        self,
        outputs: HeadOutputs,
        token_map: Tensor,
        class_ids: Tensor,
        image: int,
        level: int,
        anchors: Tensor,
        cfg: TestSettings,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Best (anchor, class) pairs of one level: class x centerness, boxes, labels.

        A fixed number comes back, so that nothing waits for the device: what does not exceed
        the score threshold has the value -1.
        """
        probs = outputs.token_logits[level][image].detach().float().sigmoid()
        scores = token_to_class_scores(probs[None], token_map)[0]  # (A, C)
        central = outputs.centernesses[level][image, 0].detach().float().sigmoid().flatten()
        rank = (scores * central[:, None]).where(scores > cfg.score_thr, -1)
        rank, anchor, label = best_pairs(rank, cfg.nms_pre)
        deltas = outputs.bbox_preds[level][image].detach().float().flatten(1).t()[anchor]
        return rank, decode_boxes(deltas, anchors[anchor]), class_ids[label]

    @staticmethod
    def _finish_boxes(boxes: Tensor, meta: dict, cfg: TestSettings, rescale: bool) -> Tensor:
        """Rescale to the original image and apply ``box_end``."""
        if rescale:
            if 'scale_factor' in meta:
                factor = [1 / float(side) for side in meta['scale_factor']]
            else:
                factor = [meta['ori_shape'][i] / meta['img_shape'][i] for i in (1, 0)]
            boxes = boxes * boxes.new_tensor(factor * 2)
        if cfg.box_end == 'exclusive':
            boxes = torch.cat([boxes[:, :2], boxes[:, 2:] + 1], dim=-1)
        return boxes
