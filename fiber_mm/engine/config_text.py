"""Configs whose text is formatted once, not with every log, dump and checkpoint."""

from __future__ import annotations

import copy
from typing import ClassVar

from mmengine.config import Config


class FormattedOnce(Config):
    """A config that remembers its formatted text as long as its content stays the same.

    mmengine formats the text with yapf whenever it is asked for: four times when a run starts and
    once for every checkpoint. For a config as long as the demo's that takes up to three seconds.
    """

    _texts: ClassVar[dict[str, str]] = {}

    @classmethod
    def of(cls, cfg: Config) -> FormattedOnce:
        """The same config; content is shared."""
        same = cls.__new__(cls)
        same.__setstate__(cfg.__getstate__())
        return same

    @property
    def pretty_text(self) -> str:
        """See mmengine."""
        plain = copy.copy(self)
        object.__setattr__(plain, '_format_python_code', False)
        content = Config.pretty_text.fget(plain)
        if not self._format_python_code:
            return content
        if content not in self._texts:
            self._texts[content] = Config.pretty_text.fget(self)
        return self._texts[content]
