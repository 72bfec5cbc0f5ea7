"""Losses."""

from .box_loss import giou_loss
from .token_focal_loss import token_focal_loss

__all__ = ['giou_loss', 'token_focal_loss']
