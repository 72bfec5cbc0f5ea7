"""Stand-ins for what the host packages may lack on a machine."""

from . import mmcv_ops

__all__ = ['mmcv_ops']
