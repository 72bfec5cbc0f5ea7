"""The paper's ablations in small, on Shapes: what is compared, how it runs, what comes out."""

from .campaign import run_campaign
from .report import write_report
from .settings import AblationSettings
from .variants import VARIANTS, Variant

__all__ = ['VARIANTS', 'AblationSettings', 'Variant', 'run_campaign', 'write_report']
