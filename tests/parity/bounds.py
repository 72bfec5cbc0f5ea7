"""How near is near enough: the table of ``data/README.md`` and the ways to measure.

An error is the largest absolute difference over the standard deviation of the whole reference
tensor; the bounds are about three times the noise measured between two machines and between
fp32 and fp64. A looser bound hides real mistakes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Bound:
    """Largest error in fp32, and largest root mean square error under bf16 autocast."""

    fp32: float
    bf16: float | None = None


FEATURES = Bound(2e-5, 2e-2)  # encoder features, FPN, text, coarse logits
TOWER = Bound(1e-4, 4e-2)
TOKEN_LOGITS = Bound(1e-4, 8e-2)
BOX_LOGITS = Bound(5e-5, 8e-2)  # bbox_pred, centerness
COARSE_LOGITS = Bound(2e-5, 8e-2)
DERIVED = Bound(1e-5, 8e-2)  # means, logsumexp: over the std of the tensor they come from
LOSS = Bound(2e-5)  # relative
GRADIENT = Bound(1e-3)  # norms relative, tensors over their std
GATES = Bound(2e-3)  # over the norm of all gates together
SCORE = Bound(1e-4)  # absolute
BOX = Bound(0.02)  # absolute, pixels
EXACT = Bound(0.0)


def spread(want: np.ndarray, std: float | None = None) -> float:
    """What an error is measured against.

    Args:
        want: the reference, whole or a sample of it.
        std: its standard deviation where the whole is not at hand.

    Returns:
        The standard deviation; for a few values the larger of it and the root mean square.
    """
    if std is not None:
        return float(std)
    want = np.asarray(want, dtype=np.float64)
    deviation = want.std(ddof=1) if want.size > 1 else 0.0
    if want.size < 100:
        deviation = max(deviation, float(np.sqrt((want**2).mean())))
    return float(deviation)


@dataclass
class Comparison:
    """Collects the errors of one golden, so that a failure shows all of them.

    Args:
        name: name of the golden.
        bf16: compare root mean squares with the bounds of bf16 instead.
    """

    name: str
    bf16: bool = False
    rows: list[tuple[str, float, float]] = field(default_factory=list)
    hints: list[str] = field(default_factory=list)

    def close(
        self,
        name: str,
        got: Tensor | np.ndarray | float,
        want: np.ndarray,
        bound: Bound,
        std: float | None = None,
        scale: float | None = None,
    ) -> None:
        """Compare a tensor.

        Args:
            name: of the array in the golden.
            got: ours.
            want: the reference, of the same shape.
            bound: from the table.
            std: standard deviation of the whole reference tensor.
            scale: measure against this instead of the spread (1 for absolute errors).
        """
        got = got.detach().double().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
        want = np.asarray(want, dtype=np.float64)
        if got.shape != want.shape:
            self.rows.append((f'{name}: shape {got.shape}, wanted {want.shape}', np.inf, 0.0))
            return
        difference = np.abs(got - want)
        size = float(np.sqrt((difference**2).mean())) if self.bf16 else float(difference.max())
        error = size / (scale if scale is not None else spread(want, std))
        limit = bound.bf16 if self.bf16 else bound.fp32
        self.rows.append((name, float(error), limit))

    def equal(self, name: str, got: Tensor | np.ndarray, want: np.ndarray) -> None:
        """Compare labels, indices, masks; the error is the number of differing values."""
        got = got.detach().cpu().numpy() if isinstance(got, Tensor) else np.asarray(got)
        differs = np.inf if got.shape != want.shape else float((got != want).sum())
        self.rows.append((name, differs, 0.0))

    def relative(self, name: str, got: float, want: float, bound: Bound) -> None:
        """Compare a number; the error is relative to the reference."""
        self.rows.append((name, abs(float(got) - float(want)) / abs(float(want)), bound.fp32))

    def at_least(self, name: str, got: float, want: float) -> None:
        """Compare a share of agreement; the error is what is missing."""
        self.rows.append((name, max(0.0, float(want) - float(got)), 1e-6))

    @property
    def worst(self) -> tuple[str, float]:
        """Name and ratio error/bound of the row nearest to (or furthest over) its bound."""
        ratios = [(n, e / b if b else (0.0 if e == 0 else np.inf)) for n, e, b in self.rows]
        return max(ratios, key=lambda item: np.nan_to_num(item[1], nan=np.inf))

    def finish(self) -> None:
        """Fail if anything is over its bound, naming everything that is."""
        assert self.rows, f'{self.name}: nothing was compared'
        over = [(n, e, b) for n, e, b in self.rows if not e <= b]
        lines = [f'  {name}: {error:.3g}, bound {bound:.3g}' for name, error, bound in over]
        lines += [f'  {hint}' for hint in self.hints]
        assert not over, f'{self.name}: {len(over)} of {len(self.rows)} over their bound\n' + (
            '\n'.join(lines)
        )


def matched_share(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    want_boxes: np.ndarray,
    want_scores: np.ndarray,
    want_labels: np.ndarray,
) -> float:
    """Share of detections that have a partner of the same label, box and score.

    The order does not matter: scores nearer than the noise may swap.

    Args:
        boxes, scores, labels: (N, 4), (N,), (N,).
        want_boxes, want_scores, want_labels: the reference, (M, 4), (M,), (M,).

    Returns:
        Number of pairs over the larger of N and M; 1 if both are 0.
    """
    total = max(len(boxes), len(want_boxes))
    if total == 0:
        return 1.0
    if min(len(boxes), len(want_boxes)) == 0:
        return 0.0
    apart = np.abs(want_boxes[:, None].astype(np.float64) - boxes[None]).max(-1)
    fits = (apart <= BOX.fp32) & (want_labels[:, None] == labels[None])
    fits &= np.abs(want_scores[:, None].astype(np.float64) - scores[None]) <= SCORE.fp32
    taken = np.zeros(len(boxes), dtype=bool)
    pairs = 0
    for row, distance in zip(fits, apart):
        free = np.flatnonzero(row & ~taken)
        if len(free):
            taken[free[distance[free].argmin()]] = True
            pairs += 1
    return pairs / total


def no_gradient(value: Tensor | None) -> bool:
    """Whether a parameter got no gradient, or only zeros."""
    return value is None or not torch.count_nonzero(value)
