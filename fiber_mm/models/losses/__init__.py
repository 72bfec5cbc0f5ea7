"""Losses."""

from .box_loss import giou_loss
from .itc import ContrastOutput, contrastive_loss
from .itm import draw, matching_loss, negative_weights
from .mlm import masked_token_loss
from .token_focal_loss import token_focal_loss

__all__ = [
    'ContrastOutput',
    'contrastive_loss',
    'draw',
    'giou_loss',
    'masked_token_loss',
    'matching_loss',
    'negative_weights',
    'token_focal_loss',
]
