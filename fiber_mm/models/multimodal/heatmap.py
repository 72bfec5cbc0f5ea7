"""Where a model looks for a phrase: maps from its cross-attention, without any box in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from mmdet.models.data_preprocessors import DetDataPreprocessor
from mmengine.model import BaseModel
from mmpretrain.models.utils.data_preprocessor import MultiModalDataPreprocessor
from torch import Tensor, nn

from fiber_mm.core.recording import record_cross_attention
from fiber_mm.models.data_preprocessors.text import TokenizedPrompt
from fiber_mm.models.utils.heatmaps import combine, phrase_maps, to_pixels, token_maps
from fiber_mm.models.utils.prompts import caption_prompt
from fiber_mm.models.utils.repeats import encode_once
from fiber_mm.registry import MODELS
from fiber_mm.structures import FusedFeatures, ImageTrunk, TextTrunk

METHODS = ('attention', 'gradient')
DIRECTIONS = dict(i2t=('i2t',), t2i=('t2i',), both=('i2t', 't2i'))
_MODEL = 'model.'


class Frame(NamedTuple):
    """Where an image lies within the model's input, height before width, in pixels.

    Attributes:
        shown: Of the resized image; what is below and to the right of it is padding.
        size: Of the original image, which maps are given for.
    """

    shown: tuple[int, int]
    size: tuple[int, int]


@MODELS.register_module()
class FiberHeatmapModel(BaseModel):
    """A model whose predictions are maps of phrases instead of its own.

    For FIBER's phrase grounding from captions alone. Checkpoints are those of the model inside.

    Args:
        model: Config of a model of the coarse stage (:class:`FiberMultimodal`) or of a detector
            (:class:`FiberGrounder`), or the model itself; not changed.
        method: ``'attention'``: how much image and phrase attend to each other; ``'gradient'``:
            weighted with what raises the log-odds of a match (needs the ITM head).
        blocks: Which fused pairs: ``'last'``, ``'all'``, or indices, 0 for the first of them and
            negative ones from the end.
        direction: ``'i2t'``, ``'t2i'`` or ``'both'``.
        skip_faulty_phrases: Whether phrases whose spans lie outside the caption or on no token get
            an empty map, with a warning, instead of being an error.
    Raises:
        ValueError: For unknown settings, ``'gradient'`` without an ITM head, a block that is not
            there, and settings that can give empty maps only.
        TypeError: For a model without FIBER's encoder.
    """

    def __init__(
        self,
        model: Mapping[str, Any] | nn.Module,
        method: str = 'attention',
        blocks: str | int | Sequence[int] = 'last',
        direction: str = 'both',
        skip_faulty_phrases: bool = False,
    ) -> None:
        super().__init__()
        if method not in METHODS:
            raise ValueError(f'method is one of {METHODS}, got {method!r}')
        if direction not in DIRECTIONS:
            raise ValueError(f'direction is one of {tuple(DIRECTIONS)}, got {direction!r}')
        self.model = model if isinstance(model, nn.Module) else MODELS.build(model)
        self.method, self.directions = method, DIRECTIONS[direction]
        self.skip_faulty_phrases = skip_faulty_phrases
        encoder = self.encoder
        if not encoder.plan.pairs:
            raise ValueError('the model has no fused blocks, so image and text never attend')
        self.blocks = _block_indices(blocks, len(encoder.plan.pairs))
        if method == 'gradient':
            self._check_gradient()
        # A checkpoint of the model inside is one of this model.
        self.register_state_dict_post_hook(_without_prefix)
        self.register_load_state_dict_pre_hook(_with_prefix)

    @property
    def encoder(self) -> nn.Module:
        """The model's :class:`FiberEncoder`."""
        backbone = getattr(self.model, 'backbone', None)
        encoder = getattr(self.model if backbone is None else backbone, 'encoder', None)
        if not hasattr(encoder, 'plan'):
            raise TypeError(
                f'{type(self.model).__name__} has no FIBER encoder: a model of the coarse stage or '
                'a FiberGrounder is wanted'
            )
        return encoder

    def _check_gradient(self) -> None:
        if not all(hasattr(self.model, name) for name in ('itm_score', 'joint')) or not hasattr(
            self.model, 'cross_modal_text_pooler'
        ):
            raise ValueError(
                f"{type(self.model).__name__} has no ITM head, whose score method='gradient' "
                "follows: use method='attention', or a model of the coarse stage with the parts "
                "'fused' and 'itm'"
            )
        if self.directions == ('t2i',) and self.blocks == (len(self.encoder.plan.pairs) - 1,):
            raise ValueError(
                'the match score reads the first token, <s>, behind the last layer, where the t2i '
                "attention of other tokens has no influence on it: take earlier blocks, 'all', or "
                "direction='i2t'"
            )

    # ---- maps --------------------------------------------------------------------------------

    def tokenize(self, caption: str, spans: Any, where: str = '') -> TokenizedPrompt:
        """A caption and the spans of its phrases as the model needs them; on the host.

        Args:
            caption: Any text.
            spans: See :func:`fiber_mm.models.utils.prompts.caption_prompt`.
            where: What messages begin with.
        Raises:
            ValueError: For an empty caption, and spans outside of it, on no token, or beyond the
                model's limit of tokens.
            TypeError: For spans that are no pairs of whole numbers.
        """
        strict = not self.skip_faulty_phrases
        try:
            prompt = caption_prompt(caption, spans, strict)
            return self.model.data_preprocessor.text(prompt, strict)
        except (ValueError, TypeError) as error:
            if not where:
                raise
            raise type(error)(f'{where}: {error}') from error

    def normalized(self, inputs: Sequence[Tensor], data_samples: Sequence[Any]) -> Tensor:
        """Images as the model's own preprocessor makes them: (B, 3, H, W)."""
        preprocessor, samples = self.model.data_preprocessor, list(data_samples)
        if isinstance(preprocessor, DetDataPreprocessor):
            batch = dict(inputs=list(inputs), data_samples=samples)
            return DetDataPreprocessor.forward(preprocessor, batch, False)['inputs']
        batch = dict(inputs=torch.stack(list(inputs)), data_samples=samples)
        return MultiModalDataPreprocessor.forward(preprocessor, batch, False)['images']

    def image_trunk(self, images: Tensor) -> ImageTrunk:
        """What all texts about an image share: (B, 3, H, W), normalised -> trunk."""
        with torch.inference_mode(False), torch.no_grad():
            return self.encoder.image_trunk(images)

    def heatmaps(
        self, image: ImageTrunk, prompts: Sequence[TokenizedPrompt], frames: Sequence[Frame]
    ) -> list[Tensor]:
        """Maps of the phrases of each pair of image and caption.

        Args:
            image: Of B images, from :meth:`image_trunk`.
            prompts: B captions with the tokens of their phrases.
            frames: Where the B images lie in the model's input.
        Returns: for each pair (P, H, W) float32 in [0, 1], in pixels of the original image; see
            :func:`fiber_mm.models.utils.heatmaps.combine`.
        """
        prompts = self.model.data_preprocessor.text.pad_together(list(prompts))
        device = image.tokens.device
        prompts = [prompt.to(device) for prompt in prompts]
        tokens = self._token_maps(image, prompts)
        results = []
        for i, (prompt, frame) in enumerate(zip(prompts, frames)):
            maps = [
                to_pixels(phrase_maps(one[i], prompt.token_map), cell, *frame)
                for one, cell in tokens
            ]
            results.append(combine(maps))
        return results

    def _token_maps(
        self, image: ImageTrunk, prompts: Sequence[TokenizedPrompt]
    ) -> list[tuple[Tensor, int]]:
        """(B, T, h, w) of each pair and direction, and the side of their cells in pixels."""
        encoder, follow = self.encoder, self.method == 'gradient'
        ids = torch.stack([prompt.input_ids for prompt in prompts])
        mask = torch.stack([prompt.attention_mask for prompt in prompts])
        # Backward passes happen in the middle of an evaluation, too.
        with torch.inference_mode(False):
            with torch.no_grad():
                text: TextTrunk = encoder.text_trunk(ids, mask)
            with torch.set_grad_enabled(follow), record_cross_attention(encoder) as record:
                fused = encoder.fuse(image, text)
                places = [(block, way) for block in self.blocks for way in self.directions]
                gradients = [None] * len(places)
                if follow:
                    probs = [getattr(record[block], way) for block, way in places]
                    gradients = torch.autograd.grad(self._match(fused).sum(), probs)
        patch = encoder.cfg.swin.patch_size
        return [
            (token_maps(record[block], way, gradient), patch * 2 ** encoder.plan.pairs[block].stage)
            for (block, way), gradient in zip(places, gradients)
        ]

    def _match(self, fused: FusedFeatures) -> Tensor:
        """Log-odds of a match: (B,)."""
        logits = self.model.itm_score(self.model.joint(fused).pooled).float()
        return logits[:, 1] - logits[:, 0]

    # ---- mmengine's interface ------------------------------------------------------------------

    def forward(
        self, inputs: Sequence[Tensor], data_samples: Sequence[Any], mode: str = 'predict'
    ) -> list[Any]:
        """Adds ``pred_heatmaps`` to the samples of a batch.

        Args:
            inputs: B images (3, H, W) uint8, as the pipeline packs them.
            data_samples: Each with ``text``, ``tokens_positive``, ``img_shape``, ``ori_shape``.
            mode: Only ``predict``.
        Returns: the samples, with ``pred_heatmaps`` (P, H, W), see :meth:`heatmaps`.
        Raises:
            KeyError: If a sample has no text.
            ValueError: For another mode, and faulty captions and spans, naming the image.
        """
        if mode != 'predict':
            raise ValueError(f'{type(self).__name__} predicts only, mode {mode!r} is not there')
        prompts = [self._prompt_of(sample) for sample in data_samples]
        frames = [Frame(tuple(s.img_shape[:2]), tuple(s.ori_shape[:2])) for s in data_samples]
        images = self.normalized(inputs, data_samples)
        trunk = encode_once(self.image_trunk, images, data_samples)
        for sample, maps in zip(data_samples, self.heatmaps(trunk, prompts, frames)):
            sample.set_field(maps, 'pred_heatmaps')
        return list(data_samples)

    def _prompt_of(self, sample: Any) -> TokenizedPrompt:
        where = str(sample.get('img_path') or 'a sample without img_path')
        if not isinstance(sample.get('text'), str):
            raise KeyError(
                f"{where}: a caption is wanted under 'text', found {sample.get('text')!r}: use "
                'FiberMDETRDataset, and FiberPackInputs at the end of its pipeline'
            )
        return self.tokenize(sample.text, sample.get('tokens_positive'), where)


def _block_indices(blocks: str | int | Sequence[int], count: int) -> tuple[int, ...]:
    """Indices in [0, count), in order, each once.

    Raises: ValueError: for others than count allows, and none at all.
    """
    blocks = (blocks,) if isinstance(blocks, int) else blocks
    if isinstance(blocks, str):
        if blocks not in ('last', 'all'):
            raise ValueError(f"blocks are 'last', 'all' or indices, got {blocks!r}")
        return (count - 1,) if blocks == 'last' else tuple(range(count))
    wrong = [block for block in blocks if not -count <= block < count]
    if wrong or not blocks:
        raise ValueError(
            f'the model has {count} fused pairs, 0 to {count - 1} (or -{count} to -1), '
            f'got blocks={list(blocks)}'
        )
    return tuple(sorted({block % count for block in blocks}))


def _without_prefix(module: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix + _MODEL)]:
        state[prefix + key.removeprefix(prefix + _MODEL)] = state.pop(key)


def _with_prefix(module: nn.Module, state: dict, prefix: str, *_: Any) -> None:
    for key in [key for key in state if key.startswith(prefix)]:
        state[prefix + _MODEL + key.removeprefix(prefix)] = state.pop(key)
