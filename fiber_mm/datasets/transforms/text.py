"""Image-text samples to what the models of the coarse stage take."""

from __future__ import annotations

from collections.abc import Sequence

from mmpretrain.datasets.transforms import PackInputs

from fiber_mm.registry import TRANSFORMS


@TRANSFORMS.register_module()
class FiberPackImageText(PackInputs):
    """mmpretrain's packer, with missing keys named instead of left out silently.

    Required Keys: ``input_key`` and all ``algorithm_keys``; optional mlm_ids, mlm_labels
    Added Keys: inputs (3, H, W) uint8 BGR, data_samples (mmpretrain's ``DataSample``)
    Deleted Keys: all others

    Args:
        input_key: Key of the image.
        algorithm_keys: Fields of the sample; ``text`` is a caption, or a list of them where the
            data set gives whole images.
        optional_keys: Fields that a sample may lack: the hidden words of ``FiberMaskTokens``.
        meta_keys: Meta information, as far as the sample has it.
    """

    def __init__(
        self,
        input_key: str = 'img',
        algorithm_keys: Sequence[str] = ('text',),
        optional_keys: Sequence[str] = ('mlm_ids', 'mlm_labels'),
        meta_keys: Sequence[str] = ('image_id', 'text_id', 'image_index', 'sample_idx', 'img_path',
                                    'ori_shape', 'img_shape', 'flip'),
    ) -> None:  # fmt: skip
        super().__init__(input_key, (*algorithm_keys, *optional_keys), tuple(meta_keys))
        self.required = (input_key, *algorithm_keys)

    def transform(self, results: dict) -> dict:
        """Pack a sample."""
        missing = [key for key in self.required if key not in results]
        if missing:
            raise KeyError(
                f'the sample of {results.get("img_path", "an image without img_path")} has no '
                f'{missing}, only {sorted(results)}: load the image before packing, or leave the '
                'key out of algorithm_keys'
            )
        return super().transform(results)
