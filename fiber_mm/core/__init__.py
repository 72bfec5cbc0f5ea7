"""FIBER's encoder on torch alone: no registry, no config dictionary, no file, no network."""

from fiber_mm.core.config import FiberCfg, FusionCfg, RobertaCfg, SwinCfg
from fiber_mm.core.encoder import FiberEncoder
from fiber_mm.core.fusion import FusionPlan

__all__ = ['FiberCfg', 'FiberEncoder', 'FusionCfg', 'FusionPlan', 'RobertaCfg', 'SwinCfg']
