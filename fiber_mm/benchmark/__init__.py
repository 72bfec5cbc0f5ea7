"""Time, memory and share of the machine's peak that the model reaches (``tools/benchmark.py``)."""

from .cases import CASES, Spec
from .flops import detector_flops
from .measure import compare

__all__ = ['CASES', 'Spec', 'compare', 'detector_flops']
