"""Time, memory and share of the machine's peak that the model reaches (``tools/benchmark.py``)."""

from .cases import CASES, Spec
from .coarse import CASES as COARSE_CASES
from .flops import detector_flops
from .measure import KEYS, compare

CASES.update(COARSE_CASES)

__all__ = ['CASES', 'KEYS', 'Spec', 'compare', 'detector_flops']
