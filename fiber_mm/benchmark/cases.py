"""What is measured: the released FIBER-Base with random weights, on made-up input."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.structures import InstanceData
from torch import Tensor

from fiber_mm.config_lookup import config_folder
from fiber_mm.models.data_preprocessors.text import TokenizedPrompt
from fiber_mm.models.detectors import FiberGrounder
from fiber_mm.registry import MODELS

from .flops import detector_flops

# (anchor, class) pairs per prompt above the score threshold: what a trained model gives.
CANDIDATES = 1000


@dataclasses.dataclass(frozen=True)
class Spec:
    """One measurement.

    Args:
        case: A name in :data:`CASES`, or one of the coarse stage.
        precision: 'fp32', or 'bf16' under autocast.
        device: Where it runs.
        size: (height, width) of the image; None takes the case's own.
        plain: Whether the plain formulation runs, with the allocator as it comes.
        model: Config of the detector; None takes FIBER-Base.
    """

    case: str
    precision: str = 'fp32'
    device: str = 'cpu'
    size: tuple[int, int] | None = None
    plain: bool = False
    model: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Case:
    """What a worker runs.

    Attributes:
        run: One run.
        flops: Operations of a run.
        beside: Another run to relate the first to, under its name.
    """

    run: Callable[[], Any]
    flops: int
    beside: Mapping[str, Callable[[], Any]] = dataclasses.field(default_factory=dict)


def base_model() -> dict:
    """Config of the released detector."""
    path = config_folder() / '_base_' / 'models' / 'fiber_swin-b_grounding.py'
    return Config.fromfile(str(path)).model.to_dict()


def build_model(spec: Spec) -> FiberGrounder:
    """The detector with random weights and half open gates; no tokenizer, no files."""
    torch.manual_seed(0)
    cfg = dict(spec.model or base_model(), data_preprocessor=None)
    model = MODELS.build(cfg)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if 'alpha_' in name:
                parameter.fill_(0.5)
    return model.to(spec.device)


def class_prompt(
    classes: Sequence[int], seed: int, vocab_size: int, length: int = 256
) -> TokenizedPrompt:
    """Made-up ids of ``length`` tokens: names of one or two tokens, each but the last with a '.'.

    Args:
        classes: Labels; 80 of them fill about as many tokens as COCO's names do.
        seed: Of the ids.
        vocab_size: Ids are below it.
        length: Tokens with padding.
    """
    ids = torch.full((length,), 1)
    token_map = torch.zeros(len(classes), length, dtype=torch.bool)
    generator = torch.Generator().manual_seed(seed)
    position = 1
    for row, label in enumerate(classes):
        end = position + 1 + (label % 3 == 0)
        token_map[row, position:end] = True
        position = end + 1
    ids[:position] = torch.randint(4, vocab_size, (position,), generator=generator)
    ids[0], ids[position - 1] = 0, 2
    return TokenizedPrompt(
        ids, ids != 1, token_map, torch.tensor(classes), [f'class {i}' for i in classes]
    )


def make_image(spec: Spec, size: tuple[int, int]) -> tuple[Tensor, DetDataSample]:
    """Normalised noise and an empty sample."""
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 3, *size, generator=generator).to(spec.device)
    meta = dict(img_shape=size, ori_shape=size, scale_factor=(1.0, 1.0), batch_input_shape=size)
    return image, DetDataSample(metainfo=meta)


def trained_scores(model: FiberGrounder, image: Tensor, sample: DetDataSample) -> None:
    """Sets ``bias0`` so that :data:`CANDIDATES` pairs exceed the score threshold."""
    head = model.bbox_head
    outputs = model._forward(image, [sample])
    token_map = sample.prompts[0].token_map.float()
    mean = (
        torch.cat([logits[0].float() for logits in outputs.token_logits])
        @ (token_map / token_map.sum(1, keepdim=True)).t()
    )
    rank = min(CANDIDATES, mean.numel())
    threshold = torch.tensor(max(head.test_settings.score_thr, 1e-6)).logit().to(mean)
    with torch.no_grad():
        head.bias0 += threshold - mean.flatten().topk(rank).values[-1]


def detect_case(spec: Spec, size: tuple[int, int], chunks: int) -> Case:
    """Image and prompts to final boxes."""
    model = build_model(spec).eval()
    size = spec.size or size
    image, sample = make_image(spec, size)
    vocab = model.backbone.encoder.cfg.roberta.vocab_size
    prompts = [
        class_prompt(range(80 * i, 80 * i + 80), i, vocab).to(spec.device) for i in range(chunks)
    ]
    sample.prompts = prompts

    @torch.inference_mode()
    def run(count: int = chunks) -> DetDataSample:
        sample.prompts = prompts[:count]
        with torch.autocast(image.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'):
            return model.predict(image, [sample])[0]

    with (
        torch.no_grad(),
        torch.autocast(image.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'),
    ):
        trained_scores(model, image, sample)
    flops = detector_flops(model, *size, len(prompts[0]), chunks)
    return Case(run, flops, dict(one_chunk=lambda: run(1)) if chunks > 1 else {})


def captions_case(spec: Spec, size: tuple[int, int], captions: int) -> Case:
    """Captions of one image, in one batch; beside it, and plainly, the same one by one."""
    model = build_model(spec).eval()
    size = spec.size or size
    image, sample = make_image(spec, size)
    vocab = model.backbone.encoder.cfg.roberta.vocab_size
    samples = []
    for i in range(captions):
        prompt = class_prompt(range(4), i, vocab).to(spec.device)  # as many phrases
        samples.append(DetDataSample(metainfo=dict(sample.metainfo, img_path='one.jpg')))
        samples[-1].prompts = [prompt]
    images = image.repeat(captions, 1, 1, 1)

    @torch.inference_mode()
    def predict(batch: Tensor, of: list[DetDataSample]) -> list[DetDataSample]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'):
            return model.predict(batch, of)

    def together() -> list[DetDataSample]:
        return predict(images, samples)

    def one_by_one() -> list[DetDataSample]:
        return [predict(image, [each])[0] for each in samples]

    with (
        torch.no_grad(),
        torch.autocast(image.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'),
    ):
        trained_scores(model, image, samples[0])
    flops = detector_flops(model, *size, len(samples[0].prompts[0]), captions)
    return Case(one_by_one if spec.plain else together, flops, dict(one_by_one=one_by_one))


def train_case(spec: Spec, size: tuple[int, int]) -> Case:
    """One image: loss, backward, clipping and AdamW."""
    model = build_model(spec).train()
    size = spec.size or size
    image, sample = make_image(spec, size)
    vocab = model.backbone.encoder.cfg.roberta.vocab_size
    prompt = class_prompt(range(80), 0, vocab).to(spec.device)
    sample.prompts = [prompt]
    generator = torch.Generator().manual_seed(2)
    scale = torch.tensor([size[1], size[0]] * 2)
    corner = torch.rand(8, 2, generator=generator) * 0.6
    side = torch.rand(8, 2, generator=generator) * 0.3 + 0.05
    boxes = torch.cat([corner, corner + side], 1) * scale
    sample.gt_instances = InstanceData(
        bboxes=boxes.to(spec.device), positive_map=prompt.token_map[torch.arange(0, 80, 10)]
    )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, weight_decay=1e-4)

    def run() -> dict[str, Tensor]:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=spec.precision == 'bf16'):
            losses = model.loss(image, [sample])
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {name: loss.detach() for name, loss in losses.items()}

    return Case(run, detector_flops(model, *size, len(prompt), training=True))


CASES: dict[str, Callable[[Spec], Case]] = dict(
    detect=functools.partial(detect_case, size=(800, 1056), chunks=1),
    detect_chunks=functools.partial(detect_case, size=(480, 640), chunks=4),
    detect_captions=functools.partial(captions_case, size=(480, 640), captions=5),
    train_step=functools.partial(train_case, size=(800, 1056)),
)
