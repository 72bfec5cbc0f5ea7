"""Time, memory and share of the machine's peak that the model reaches (``tools/benchmark.py``)."""

from .cases import CASES, Spec
from .coarse import CASES as COARSE_CASES
from .flops import detector_flops
from .measure import compare

CASES.update(COARSE_CASES)

__all__ = ['CASES', 'Spec', 'compare', 'detector_flops']
