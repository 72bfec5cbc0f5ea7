"""Where programs run unless they are told."""

from __future__ import annotations

import mmengine.device.utils
from mmengine.device import get_device


def default_device() -> str:
    """mmengine's choice, an accelerator if there is one, else the CPU.

    Apple's GPUs (``mps``) are left out: they have no float64, in which boxes are suppressed and
    hard negatives drawn, and none was at hand to test the rest on. A device that is named is taken.
    """
    device = get_device()
    return 'cpu' if device == 'mps' else device


def leave_mps() -> bool:
    """Make mmengine's own choice, for this process, that of :func:`default_device`.

    Returns: Whether that changed it.
    """
    chosen = default_device()
    changed = chosen != get_device()
    if changed:
        mmengine.device.utils.DEVICE = chosen
    return changed
