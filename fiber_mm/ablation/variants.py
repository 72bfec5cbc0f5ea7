"""What is compared: named variants of the nano configs, each a few settings that differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fiber_mm.models.multimodal.pretrain import LOSSES

Overrides = Mapping[str, Any]

#: Gates that stay where they start: factors of all rules that hold for a parameter multiply.
FIXED_GATES = dict(contains='alpha', lr_mult=0.0)
#: Groups of the report, in its order.
GROUPS = {
    'coarse-to-fine': 'From scratch, from the coarse checkpoint',
    'gates': 'Gates of the fine stage',
    'negatives': 'Negatives of matching',
    'losses': 'Losses of the coarse stage',
    'fusion': 'Gated and ungated fusion',
    'blocks': 'Fused blocks',
}


@dataclass(frozen=True)
class Variant:
    """One row of the report.

    Attributes:
        title: What it is, for the table.
        group: Key of ``GROUPS``.
        against: The variant that it is compared with; empty for one that others are compared with.
        about: What differs, in one sentence.
        from_coarse: Whether the fine stage starts from a coarse checkpoint.
        encoder: Settings of the encoder in both stages (``'fusion.num_blocks'``, ...).
        coarse: Settings of the coarse config (``'model.losses'``, ...).
        fine_fusion: Settings of the encoder's fusion in the fine stage alone.
        coarse_gates_fixed, fine_gates_fixed: Whether the gates keep their start values in a stage.
        kept_gates: Whether the fine stage starts the gates at the values of the coarse checkpoint
            instead of at ``fusion.gate_init``.
    """

    title: str
    group: str
    about: str
    against: str = ''
    from_coarse: bool = True
    encoder: Overrides = field(default_factory=dict)
    coarse: Overrides = field(default_factory=dict)
    fine_fusion: Overrides = field(default_factory=dict)
    coarse_gates_fixed: bool = False
    fine_gates_fixed: bool = False
    kept_gates: bool = False

    def __post_init__(self) -> None:
        if not self.from_coarse and (self.coarse or self.coarse_gates_fixed or self.kept_gates):
            raise ValueError(f'{self.title!r} has settings of a coarse stage, but none')
        if self.group not in GROUPS:
            raise ValueError(f'{self.title!r}: unknown group {self.group!r}; want {list(GROUPS)}')

    @property
    def losses(self) -> tuple[str, ...]:
        """Losses of the coarse stage; empty without one."""
        return tuple(self.coarse.get('model.losses', LOSSES)) if self.from_coarse else ()

    @property
    def coarse_settings(self) -> dict[str, Any] | None:
        """All that the coarse stage depends on; None without one."""
        if not self.from_coarse:
            return None
        return dict(
            encoder=dict(self.encoder),
            coarse=dict(self.coarse),
            gates_fixed=self.coarse_gates_fixed,
        )

    def definition(self) -> dict[str, Any]:
        """Everything that the numbers depend on, as kept with them: not the words."""
        return {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ('title', 'group', 'about', 'against')
        }


def _fewer_losses(*losses: str, hard: bool = True) -> dict[str, Any]:
    # Parts of the encoder that no loss reaches have no gradient, which DDP must know.
    return {
        'model.losses': list(losses),
        'model.hard_negatives': hard,
        'find_unused_parameters': True,
    }


def _blocks(number: int, against: str = 'blocks_2') -> Variant:
    return Variant(
        title=f'{number} fused blocks',
        group='blocks',
        against=against,
        about=f'Of 6 image blocks and 6 text layers the last {number} are fused, in both stages.',
        encoder={'roberta.num_layers': 6, 'fusion.num_blocks': number},
    )


#: Name of each variant, as on the command line.
VARIANTS: dict[str, Variant] = {
    'scratch': Variant(
        title='fine stage from scratch',
        group='coarse-to-fine',
        about='No coarse stage; gates start at 0 and learn.',
        from_coarse=False,
    ),
    'coarse': Variant(
        title='fine stage from the coarse checkpoint',
        group='coarse-to-fine',
        against='scratch',
        about='Coarse stage with all three losses and hard negatives, whose gates start at 1, then '
        'the fine stage, whose gates start at 0; both learn.',
    ),
    'gates_shut': Variant(
        title='gates shut',
        group='gates',
        against='coarse',
        about='As "coarse"; in the fine stage the gates are 0 and stay there.',
        fine_gates_fixed=True,
    ),
    'gates_kept': Variant(
        title='gates of the coarse checkpoint',
        group='gates',
        against='coarse',
        about='As "coarse"; in the fine stage the gates start where the coarse stage left them.',
        kept_gates=True,
    ),
    'scratch_gates_shut': Variant(
        title='from scratch, gates shut',
        group='gates',
        against='scratch',
        about='As "scratch"; the gates are 0 and stay there.',
        from_coarse=False,
        fine_gates_fixed=True,
    ),
    'scratch_gates_open': Variant(
        title='from scratch, gates open at the start',
        group='gates',
        against='scratch',
        about='As "scratch"; the gates start at 1 and learn.',
        from_coarse=False,
        fine_fusion={'gate_init': 1.0},
    ),
    'random_negatives': Variant(
        title='random negatives',
        group='negatives',
        against='coarse',
        about='As "coarse"; matching draws its negatives evenly, not by similarity.',
        coarse={'model.hard_negatives': False},
    ),
    'no_itc': Variant(
        title='without contrast (ITC)',
        group='losses',
        against='random_negatives',
        about='Matching and masked words; without contrast there are no similarities to draw hard '
        'negatives by, so it is compared with "random_negatives".',
        coarse=_fewer_losses('itm', 'mlm', hard=False),
    ),
    'no_itm': Variant(
        title='without matching (ITM)',
        group='losses',
        against='coarse',
        about='Contrast and masked words.',
        coarse=_fewer_losses('itc', 'mlm'),
    ),
    'no_mlm': Variant(
        title='without masked words (MLM)',
        group='losses',
        against='coarse',
        about='Contrast and matching.',
        coarse=_fewer_losses('itc', 'itm'),
    ),
    'gates_from_zero': Variant(
        title='gates start at 0',
        group='fusion',
        against='coarse',
        about='The gates start at 0 in the coarse stage, too, as in the paper, whose encoders were '
        'trained before.',
        encoder={'fusion.gate_init': 0.0},
    ),
    'ungated': Variant(
        title='ungated fusion',
        group='fusion',
        against='coarse',
        about='The gates are 1 and stay there, in both stages.',
        encoder={'fusion.gate_init': 1.0},
        coarse_gates_fixed=True,
        fine_gates_fixed=True,
    ),
    'blocks_2': _blocks(2, against=''),
    'blocks_4': _blocks(4),
    'blocks_6': _blocks(6),
}


def coarse_name(name: str) -> str | None:
    """The variant whose coarse checkpoint a variant starts from: the first that has the same.

    Args:
        name: Of the variant.

    Returns:
        Another name or the same; None where the fine stage starts from scratch.
    """
    wanted = VARIANTS[name].coarse_settings
    if wanted is None:
        return None
    return next(other for other, v in VARIANTS.items() if v.coarse_settings == wanted)


def check_names(names: Sequence[str]) -> tuple[str, ...]:
    """The names, without repetition, in the order of the table.

    Raises:
        ValueError: for names that are not there, or none at all.
    """
    unknown = sorted(set(names) - set(VARIANTS))
    if unknown or not names:
        raise ValueError(
            f'there are no variants {unknown}; choose from {", ".join(VARIANTS)}'
            if unknown
            else f'no variants chosen; there are {", ".join(VARIANTS)}'
        )
    return tuple(name for name in VARIANTS if name in names)
