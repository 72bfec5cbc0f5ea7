"""Drawings of every tested sample, also of several texts of one image."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mmcv
from mmdet.engine.hooks import DetVisualizationHook
from mmdet.structures import DetDataSample
from mmengine.fileio import get

from fiber_mm.registry import HOOKS


@HOOKS.register_module()
class FiberVisualizationHook(DetVisualizationHook):
    """mmdet's hook, which keeps one drawing of each file name, that of the last sample.

    Here the drawings of a second and third sample (another text of the image, an image of the same
    name) are NAME_2.jpg, NAME_3.jpg, in whatever process they are made.

    Args:
        **kwargs: those of mmdet's ``DetVisualizationHook``.
    """

    def after_test_iter(
        self, runner: Any, batch_idx: int, data_batch: dict, outputs: Sequence[DetDataSample]
    ) -> None:
        """Draw the samples of a batch."""
        if not self.draw:
            return
        for sample in outputs:
            self._test_index += 1
            name = os.path.basename(sample.img_path)
            content = get(sample.img_path, backend_args=self.backend_args)
            out_file = None
            if self.test_out_dir is not None:
                out_file = str(_free_name(Path(runner.log_dir) / self.test_out_dir, name))
            self._visualizer.add_datasample(
                name if self.show else 'test_img',
                mmcv.imfrombytes(content, channel_order='rgb'),
                data_sample=sample,
                show=self.show,
                wait_time=self.wait_time,
                pred_score_thr=self.score_thr,
                out_file=out_file,
                step=self._test_index,
            )


def _free_name(folder: Path, name: str) -> Path:
    """A file that is not there yet; made, empty, so that no other process takes its name."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, suffix = os.path.splitext(name)
    number = 1
    while True:
        path = folder / (name if number == 1 else f'{stem}_{number}{suffix}')
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
        else:
            return path
