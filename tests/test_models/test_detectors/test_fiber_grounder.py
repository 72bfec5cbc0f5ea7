"""The detector, from samples with texts to losses and named boxes."""

import copy

import pytest
import torch
from mmengine.runner.checkpoint import load_state_dict as mmengine_load

from fiber_mm.engine import CheckpointError
from fiber_mm.models.utils.prompts import caption_prompt, split_caption
from fiber_mm.registry import MODELS

from .toy import VOCABULARY, detect, picture, sample, toy_config, toy_detector

CAPTION = 'a red circle left of the small blue square'
CIRCLE, SQUARE = (0, 12), (25, 42)
CLASSES = ('cat', 'dog', 'red car', 'traffic light', 'person', 'fire truck', 'blue bow')


@pytest.fixture(scope='module')
def model(tokenizer_dir):
    return toy_detector(tokenizer_dir)


def assert_same(seen, wanted, tolerance=1e-3):
    """The same boxes of the same labels and scores, whatever the order of (nearly) equal ones."""
    for one, other in ((seen, wanted), (wanted, seen)):
        # Which of those that equal the last one are kept is a matter of rounding, too.
        sure = one[one.scores > one.scores[-1] + tolerance]
        assert len(sure) > 4
        equal = sure.labels[:, None] == other.labels
        equal &= (sure.scores[:, None] - other.scores).abs() < tolerance
        equal &= (sure.bboxes[:, None] - other.bboxes).abs().amax(-1) < 100 * tolerance
        assert equal.any(1).all()


# ---- training --------------------------------------------------------------------------------


def training_batch():
    """A detection sample and a phrase sample, of two sizes."""
    images = [picture(64, 96, 0), picture(96, 64, 1)]
    samples = [
        sample(
            images[0],
            boxes=[[4, 4, 40, 50], [50, 10, 90, 60]],
            labels=[1, 0],
            text='cat. dog',
            tokens_positive=[[[0, 3]], [[5, 8]]],
            custom_entities=True,
        ),
        sample(
            images[1],
            boxes=[[8, 8, 40, 40]],
            labels=[1],
            text=CAPTION,
            tokens_positive={0: [CIRCLE], 1: [SQUARE]},
        ),
    ]
    return dict(inputs=images, data_samples=samples)


def test_detection_and_phrase_samples_train_in_one_batch(tokenizer_dir):
    model = toy_detector(tokenizer_dir).train()
    batch = model.data_preprocessor(training_batch(), training=True)
    losses = model(**batch, mode='loss')
    assert sorted(losses) == ['loss_bbox', 'loss_centerness', 'loss_cls']
    total, _ = model.parse_losses(losses)
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    without = {n for n, p in model.named_parameters() if not p.grad.any()}
    # The box scale of a level that no box of this batch was assigned to.
    assert all(name.startswith('bbox_head.scales.') for name in without)
    assert len(without) < 3


def test_training_reads_the_text(tokenizer_dir):
    """The same boxes under another phrase have another loss."""
    model = toy_detector(tokenizer_dir).train()

    def classification_loss(spans):
        batch = training_batch()
        batch['data_samples'][1].set_metainfo(dict(tokens_positive={0: [CIRCLE], 1: [spans]}))
        batch = model.data_preprocessor(batch, training=True)
        return model(**batch, mode='loss')['loss_cls']

    assert not torch.isclose(classification_loss(SQUARE), classification_loss((31, 35)))


def test_a_step_lowers_the_loss(tokenizer_dir):
    from mmengine.optim import OptimWrapper

    model = MODELS.build(toy_config(tokenizer_dir)).train()
    optim = OptimWrapper(torch.optim.AdamW(model.parameters(), lr=2e-3))
    losses = [model.train_step(training_batch(), optim)['loss'].item() for _ in range(6)]
    assert losses[-1] < losses[0]


# ---- inference -------------------------------------------------------------------------------


def test_class_list(model):
    (found,) = detect(model, [picture()], text=CLASSES)
    assert 0 < len(found) <= 20
    assert found.label_names == [CLASSES[label] for label in found.labels.tolist()]
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert found.bboxes.min() >= 0
    assert (found.bboxes[:, 0::2] <= 96).all()
    assert (found.bboxes[:, 1::2] <= 64).all()
    (as_text,) = detect(model, [picture()], text='. '.join(CLASSES), custom_entities=True)
    assert_same(as_text, found)


def test_caption_with_spans(model):
    spans = [[CIRCLE], [SQUARE]]
    (found,) = detect(model, [picture()], text=CAPTION, tokens_positive=spans)
    names = ('a red circle', 'small blue square')
    assert set(found.labels.tolist()) == {0, 1}
    assert found.label_names == [names[label] for label in found.labels.tolist()]
    # The same spans under other labels, as RefCOCO and Flickr30k give them.
    (keyed,) = detect(model, [picture()], text=CAPTION, tokens_positive={3: [CIRCLE], 8: [SQUARE]})
    assert keyed.label_names == found.label_names
    assert keyed.labels.tolist() == [(3, 8)[label] for label in found.labels.tolist()]


def test_free_caption(model):
    (found,) = detect(model, [picture()], text=CAPTION)
    assert set(found.label_names) == {'a red circle', 'the small blue square'}
    (whole,) = detect(model, [picture()], text=CAPTION, tokens_positive=-1)
    assert set(whole.label_names) == {CAPTION}


def test_boxes_are_given_in_pixels_of_the_original_image(model):
    image = picture()

    def boxes(**geometry):
        entry = sample(image, text=('cat',))
        entry.set_metainfo(geometry)
        (found,) = model.test_step(dict(inputs=[image], data_samples=[entry]))
        return found.pred_instances.bboxes

    enlarged = boxes(scale_factor=(0.5, 0.25), ori_shape=(256, 192))
    # The last pixel of a box is part of it: 1 is added after rescaling.
    torch.testing.assert_close(
        enlarged,
        (boxes() - torch.tensor([0.0, 0, 1, 1])) * torch.tensor([2.0, 4, 2, 4])
        + torch.tensor([0.0, 0, 1, 1]),
    )


def test_images_of_one_size_give_together_what_each_gives_alone(model):
    images = [picture(seed=seed) for seed in range(3)]
    together = detect(model, images, text=CLASSES)
    for image, seen in zip(images, together):
        assert_same(seen, detect(model, [image], text=CLASSES)[0])


def test_each_image_of_a_batch_has_its_own_text(model):
    images = [picture(seed=seed) for seed in range(3)]
    texts = [CLASSES[:2], CLASSES, CLASSES[3:]]
    samples = [sample(image, text=text) for image, text in zip(images, texts)]
    together = model.test_step(dict(inputs=images, data_samples=samples))
    for image, text, seen in zip(images, texts, together):
        assert_same(seen.pred_instances, detect(model, [image], text=text)[0])


def test_padding_of_the_text_changes_nothing(model, tokenizer_dir):
    padded = toy_detector(tokenizer_dir, dict(data_preprocessor=dict(pad_to='max')))
    (short,) = detect(model, [picture()], text=CLASSES[:2])
    (long,) = detect(padded, [picture()], text=CLASSES[:2])
    assert_same(long, short)


def test_tensor_mode_gives_the_raw_outputs(model):
    image = picture()
    batch = dict(inputs=[image], data_samples=[sample(image, text=('cat',))])
    outputs = model(**model.data_preprocessor(batch), mode='tensor')
    assert [tuple(m.shape[-2:]) for m in outputs.bbox_preds] == [(8, 12), (4, 6), (2, 3)]


# ---- several prompts ---------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch):
    """Counts calls of the parts that prompts share, and of the part that they do not."""

    def count(model):
        calls = dict.fromkeys(('image_trunk', 'text_trunk', 'fuse'), 0)
        for name in calls:
            original = getattr(model.backbone.encoder, name)

            def wrapped(*args, name=name, original=original):
                calls[name] += 1
                return original(*args)

            monkeypatch.setattr(model.backbone.encoder, name, wrapped)
        return calls

    return count


def test_long_class_lists_share_the_image_trunk(tokenizer_dir, counted):
    model = toy_detector(tokenizer_dir, dict(data_preprocessor=dict(max_tokens=10)))
    calls = counted(model)
    (found,) = detect(model, [picture()], text=CLASSES)
    assert calls['image_trunk'] == 1
    assert calls['fuse'] == calls['text_trunk'] > 1
    assert found.label_names == [CLASSES[label] for label in found.labels.tolist()]
    chunks = model.data_preprocessor.tokenize_sample(sample(picture(), text=CLASSES))
    assert calls['fuse'] == len(chunks)


def test_prompts_of_one_list_are_ranked_together(tokenizer_dir):
    """Chunks by class give the best of what each class gives by itself, in one order."""
    limit = 12
    model = toy_detector(
        tokenizer_dir,
        dict(data_preprocessor=dict(chunk_size=1), test_cfg=dict(nms_pre=1000, max_per_img=limit)),
    )
    (found,) = detect(model, [picture()], text=CLASSES)
    assert len(found) == limit
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert len(set(found.labels.tolist())) > 1
    singly = [detect(model, [picture()], text=(name,))[0] for name in CLASSES]
    scores = torch.cat([s.scores for s in singly]).sort(descending=True).values
    torch.testing.assert_close(found.scores, scores[:limit], rtol=1e-4, atol=1e-5)


def test_long_captions_are_split(tokenizer_dir):
    """Phrases of each piece are found as in a caption of its own; batches may mix numbers."""
    model = toy_detector(tokenizer_dir, dict(test_cfg=dict(nms_pre=1000, max_per_img=1000)))
    halves = ['a red circle left of ' + 'blue ' * 40, 'cat ' * 40 + 'and a green car']
    caption = ''.join(halves)
    spans = [[[2, 12]], [[len(caption) - 11, len(caption)]]]
    limit = model.data_preprocessor.text.max_tokens
    assert model.data_preprocessor.text.count_tokens(caption) > limit
    texts = [caption, 'a red circle']
    samples = [
        sample(picture(), text=text, tokens_positive=where)
        for text, where in zip(texts, (spans, spans[:1]))
    ]
    long, short = model.test_step(dict(inputs=[picture()] * 2, data_samples=samples))
    found = long.pred_instances
    assert set(found.label_names) == {'red circle', 'a green car'}
    assert set(short.pred_instances.label_names) == {'red circle'}
    tokenizer = model.data_preprocessor.text
    prompt = caption_prompt(caption, spans)
    for label, piece in enumerate(
        split_caption(prompt, tokenizer.count_tokens, tokenizer.max_tokens)
    ):
        assert tokenizer.count_tokens(piece.text) > tokenizer.max_tokens - 3, 'filled up'
        (alone,) = detect(model, [picture()], text=piece.text, tokens_positive=piece.spans)
        scores = found.scores[found.labels == label]
        torch.testing.assert_close(scores[:10], alone.scores[:10], rtol=1e-4, atol=1e-5)


def test_texts_of_one_image_share_its_trunk(model, monkeypatch):
    images = [picture(seed=seed) for seed in (0, 0, 0, 1)]
    texts = [CLASSES[:2], CLASSES, CLASSES[3:], CLASSES]
    samples = [
        sample(image, text=text, img_path=f'{i // 3}.jpg')
        for i, (image, text) in enumerate(zip(images, texts))
    ]
    encoded = []
    encode = model.backbone.encoder.image_trunk
    monkeypatch.setattr(
        model.backbone.encoder, 'image_trunk', lambda x: encoded.append(len(x)) or encode(x)
    )
    together = model.test_step(dict(inputs=images, data_samples=samples))
    assert encoded == [2]
    for image, text, seen in zip(images, texts, together):
        assert_same(seen.pred_instances, detect(model, [image], text=text)[0])


def test_images_with_another_number_of_prompts(tokenizer_dir, counted):
    model = toy_detector(tokenizer_dir, dict(data_preprocessor=dict(max_tokens=10)))
    images = [picture(seed=seed) for seed in range(2)]
    texts = [CLASSES[:1], CLASSES]
    alone = [detect(model, [image], text=text)[0] for image, text in zip(images, texts)]
    calls = counted(model)
    samples = [sample(image, text=text) for image, text in zip(images, texts)]
    together = model.test_step(dict(inputs=images, data_samples=samples))
    assert calls['image_trunk'] == 1
    for seen, wanted in zip(together, alone):
        assert_same(seen.pred_instances, wanted)


# ---- faults ------------------------------------------------------------------------------------


def test_tokenizer_that_does_not_fit_is_named(tokenizer_dir):
    config = toy_config(tokenizer_dir, dict(backbone=dict(roberta=dict(vocab_size=100))))
    with pytest.raises(ValueError, match=rf'{VOCABULARY} tokens.*100'):
        detect(MODELS.build(config).eval(), [picture()], text=('cat',))


def test_a_backbone_without_text_is_refused(tokenizer_dir):
    config = toy_config(tokenizer_dir, dict(backbone=dict(roberta=None)))
    with pytest.raises(ValueError, match=r'backbone\.roberta'):
        MODELS.build(config)


def test_weights_that_are_missing_until_they_are_loaded(model):
    whole = model.state_dict()
    part = {key: value for key, value in whole.items() if 'centerness' not in key}
    mmengine_load(model, part)  # which would only warn
    with pytest.raises(CheckpointError, match=r'2 missing: bbox_head\.centerness'):
        detect(model, [picture()], text=CLASSES)
    model.load_state_dict(whole, strict=False)
    assert len(detect(model, [picture()], text=CLASSES)) == 1


def test_results_do_not_keep_the_prompts(model):
    batch = dict(inputs=[picture()], data_samples=[sample(picture(), text=CLASSES)])
    for step in (model.test_step, model.val_step):
        (result,) = step(copy.deepcopy(batch))
        assert 'pred_instances' in result
        assert 'prompts' not in result


def test_missing_prompts_are_named(model):
    image = picture()
    with pytest.raises(KeyError, match='data_preprocessor'):
        model.predict(torch.zeros(1, 3, 64, 96), [sample(image)])
    with pytest.raises(KeyError, match="no 'text'"):
        detect(model, [image])


@pytest.mark.parametrize(
    ('text', 'message'),
    [(' ', 'empty'), ((), 'at least one'), (('cat', ' '), 'empty'), (('cat', 'cat'), 'same as')],
)
def test_faulty_texts_name_the_image(model, text, message):
    with pytest.raises(ValueError, match=rf'photo\.jpg.*{message}'):
        detect(model, [picture()], text=text, img_path='photo.jpg')


@pytest.mark.parametrize('size', [(1, 1), (2, 300), (300, 2)])
def test_odd_image_sizes(model, size):
    (found,) = detect(model, [picture(*size)], text=CLASSES)
    assert found.bboxes.isfinite().all()
    assert (found.bboxes[:, 0::2] <= size[1]).all()


def test_bf16_autocast(model):
    (exact,) = detect(model, [picture()], text=CLASSES)
    with torch.autocast('cpu', torch.bfloat16):
        (near,) = detect(model, [picture()], text=CLASSES)
    torch.testing.assert_close(near.scores[:5], exact.scores[:5], rtol=0.1, atol=0.05)
