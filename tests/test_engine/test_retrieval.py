"""Evaluation of retrieval: against a slow one, from caches, killed, in two processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizer_fixture import tokenizer_dir  # noqa: F401

from fiber_mm.engine import CacheError, launch
from fiber_mm.engine.gallery import Gallery

from . import toy_retrieval as toy
from . import toy_training

KINDS = ('image_features', 'image_trunk', 'text_features', 'text_trunk', 'itm', 'itm_rerank-6')


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / 'data'
    folder.mkdir()
    toy.write_data(folder)
    return folder


@pytest.fixture
def config(data, tokenizer_dir, tmp_path):  # noqa: F811
    return toy.config(data, tokenizer_dir, tmp_path / 'run')


def places(scores, right, k):
    """Share of rows with a right answer among the first k; wrong ones come first in a tie."""
    hits = [
        any(right[q, c] for c in sorted(range(len(row)), key=lambda c: (-row[c], right[q, c]))[:k])
        for q, row in enumerate(scores)
    ]
    return float(np.mean(hits))


def by_the_definition(runner, topk=6, ks=(1, 2, 5)):
    """Every pair through the whole encoder, one by one; lists sorted in Python."""
    model, dataset = runner.model.eval(), runner.test_dataloader.dataset
    samples = [dataset[i] for i in range(len(dataset))]
    texts, owner = [], []
    for i, sample in enumerate(samples):
        texts += sample['data_samples'].text
        owner += [i] * len(sample['data_samples'].text)
    batch = model.data_preprocessor.prepare_texts(texts)
    matching = np.zeros((len(samples), len(texts)))
    images, words = [], []
    with torch.no_grad():
        for i, sample in enumerate(samples):
            image = model.data_preprocessor.prepare_images([sample['inputs']])
            images.append(model.contrast_image(model.encoder.image_trunk(image)).pooled)
            for t in range(len(texts)):
                pair = image, batch.input_ids[t : t + 1], batch.attention_mask[t : t + 1]
                logits = model.itm_score(model.joint(model.encoder(*pair)).pooled)
                matching[i, t] = logits[0, 1] - logits[0, 0]
        for t in range(len(texts)):
            pair = batch.input_ids[t : t + 1], batch.attention_mask[t : t + 1]
            words.append(model.contrast_text(model.encoder.text_trunk(*pair)).pooled)
    cosine = (torch.cat(images) @ torch.cat(words).t()).numpy().astype(float)
    right = np.arange(len(samples))[:, None] == np.array(owner)
    found = {}
    for direction, turn in (('TR', lambda x: x), ('IR', np.transpose)):
        scores, match, own = turn(cosine), turn(matching), turn(right)
        rerank = np.full_like(scores, -np.inf)
        for q, row in enumerate(scores):
            first = np.argsort(-row, kind='stable')[:topk]
            rerank[q] = row - 1000  # behind
            rerank[q, first] = match[q, first]
        for k in ks:
            found[f'itc/{direction}@{k}'] = places(scores, own, k)
            found[f'itm/{direction}@{k}'] = places(match, own, k)
            found[f'itm_rerank/{direction}@{k}'] = places(rerank, own, k)
    return found


def equal(got, wanted):
    assert got.keys() == wanted.keys()
    assert {k: got[k] for k in wanted if got[k] != pytest.approx(wanted[k])} == {}


def test_recalls_are_those_of_a_slow_evaluation(config):
    runner = toy.build(config)
    wanted = by_the_definition(runner)
    got = runner.test()
    means = {key: got.pop(key) for key in list(got) if key.endswith('mean_recall')}
    equal(got, wanted)
    for protocol in ('itc', 'itm', 'itm_rerank'):
        own = [value for key, value in got.items() if key.startswith(f'{protocol}/')]
        assert means[f'{protocol}/mean_recall'] == pytest.approx(np.mean(own))
    assert 0 < got['itm/IR@5'] < 1, 'the toy must tell right from wrong'


@pytest.mark.parametrize('budget', [2**30, 200_000, 0])
def test_every_input_is_encoded_once(config, monkeypatch, budget):
    """Also what was spilled to disk."""
    config.test_cfg.memory_budget = budget
    runner = toy.build(config)
    seen = dict(image_trunk=0, text_trunk=0)
    encoder = runner.model.encoder

    def counting(name):
        verb = getattr(encoder, name)

        def count(*args):
            seen[name] += len(args[0])
            return verb(*args)

        return count

    for name in seen:
        monkeypatch.setattr(encoder, name, counting(name))
    runner.test()
    captions = sum(1 + i % 3 for i in range(toy.IMAGES))
    assert seen == dict(image_trunk=toy.IMAGES, text_trunk=captions)


def test_the_dual_encoder_keeps_no_trunks(config, tmp_path):
    config.test_cfg.update(protocols='itc', cache_dir=str(tmp_path / 'cache'))
    toy.evaluate(config)
    kinds = {p.name.rsplit('_', 1)[0] for p in (tmp_path / 'cache/rank_0_of_1').glob('*.pt')}
    assert kinds == {'image_features', 'text_features'}


def test_spilled_to_disk_equals_memory(config, tmp_path):
    wanted = toy.evaluate(config)
    for budget in (0, 20_000):
        config.test_cfg.update(memory_budget=budget, spill_dir=str(tmp_path / 'spill'))
        assert toy.evaluate(config) == wanted
    assert not list((tmp_path / 'spill').iterdir()), 'what was temporary is removed'


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(memory_budget='8GB'), "memory_budget is a number of bytes, got '8GB'"),
        (dict(spill_dir='a_file/below'), 'spill_dir .*a_file/below cannot be made'),
    ],
)
def test_settings_of_the_cache_are_checked_at_once(config, tmp_path, settings, message):
    (tmp_path / 'a_file').touch()
    if 'spill_dir' in settings:
        settings = dict(spill_dir=str(tmp_path / settings['spill_dir']))
    config.test_cfg.update(settings)
    with pytest.raises((ValueError, CacheError), match=message):
        toy.evaluate(config)


def test_a_kept_cache_is_used_and_another_model_refused(config, tmp_path, monkeypatch):
    wanted = toy.evaluate(config)
    config.test_cfg.cache_dir = str(tmp_path / 'cache')
    assert toy.evaluate(config) == wanted
    files = sorted((tmp_path / 'cache/rank_0_of_1').iterdir())
    assert {f.name.rsplit('_', 1)[0] for f in files if f.suffix == '.pt'} == set(KINDS)

    runner = toy.build(config)

    def never(*_):
        raise AssertionError('all is in the cache')

    monkeypatch.setattr(runner.model.encoder, 'image_trunk', never)
    monkeypatch.setattr(runner.model.encoder, 'text_trunk', never)
    monkeypatch.setattr(runner.model.encoder, 'fuse', never)
    assert runner.test() == wanted

    runner = toy.build(config)
    with torch.no_grad():
        runner.model.temp.add_(0.1)
    with pytest.raises(CacheError, match='another model: give another cache_dir'):
        runner.test()
    config.test_dataloader.dataset.pipeline[1].size = 96
    with pytest.raises(CacheError, match='another preprocessing'):
        toy.evaluate(config)


def test_a_cache_of_other_data_is_refused(config, data, tmp_path):
    config.test_cfg.update(cache_dir=str(tmp_path / 'cache'), protocols='itc')
    toy.evaluate(config)
    rows = toy.write_data(data)
    rows[3]['sentences'][0]['raw'] = 'small dog'
    toy.write_rows(data, rows)
    with pytest.raises(CacheError, match='another data'):
        toy.evaluate(config)


def test_images_inside_of_a_file_are_told_apart():
    """Where the path does not change with the image, as in an arrow table."""

    def paths(content):
        row = dict(image_id=1, text='a', img_path='a.arrow (row 0)', img_bytes=content)
        return Gallery.of_dataset(Listed(row)).paths

    assert paths(b'one') == paths(b'one') != paths(b'two')


@pytest.mark.slow
def test_a_killed_evaluation_goes_on(config, tmp_path):
    wanted = toy.evaluate(config)
    cache = tmp_path / 'cache'
    config.test_cfg.cache_dir = str(cache)
    file = tmp_path / 'test.py'
    config.dump(file)
    process = toy_training.in_a_process(toy.evaluate_slowly, str(file))
    toy_training.kill_when(process, lambda: len(list(cache.glob('*/itm_0*.pt'))) >= 2)
    there = {p: p.stat().st_mtime_ns for p in cache.glob('*/*.pt')}
    assert not list(cache.glob('*/itm_rerank*')), 'it was meant to be killed before its end'
    assert toy.evaluate(config) == wanted
    assert {p: p.stat().st_mtime_ns for p in there} == there, 'nothing was computed again'


@pytest.mark.slow
@pytest.mark.usefixtures('quick_launch')
@pytest.mark.parametrize('kept', [dict(), dict(memory_budget=0), dict(cache_dir='cache')])
def test_two_processes_find_the_same(config, tmp_path, kept):
    wanted = toy.evaluate(config)
    file = tmp_path / 'test.py'
    if 'cache_dir' in kept:
        kept['cache_dir'] = str(tmp_path / kept['cache_dir'])
    config.test_cfg.update(kept)
    config.dump(file)
    assert launch(toy.in_two, str(file), processes=2) == wanted
    if 'cache_dir' in kept:  # a killed one goes on with what its ranks kept
        lost = [*(tmp_path / 'cache/rank_1_of_2').glob('itm*.pt')]
        assert lost
        for path in lost:
            path.unlink()
        assert launch(toy.in_two, str(file), processes=2) == wanted


def test_a_full_disk_is_told(config, tmp_path, monkeypatch):
    import errno

    from fiber_mm.engine import checkpoint

    def full(*_):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(checkpoint.os, 'fsync', full)
    config.test_cfg.update(memory_budget=0, spill_dir=str(tmp_path))
    with pytest.raises(CacheError, match='No space left.*make room.*raise memory_budget'):
        toy.evaluate(config)


def test_an_evaluation_goes_on_after_a_full_disk(config, tmp_path, monkeypatch):
    import errno

    from fiber_mm.engine import checkpoint

    wanted, written = toy.evaluate(config), []
    sync = checkpoint.os.fsync

    def full(file):
        written.append(file)
        if len(written) > 12:
            raise OSError(errno.ENOSPC, 'No space left on device')
        sync(file)

    config.test_cfg.cache_dir = str(tmp_path / 'cache')
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.os, 'fsync', full)
        with pytest.raises(CacheError, match='No space left'):
            toy.evaluate(config)
    assert len(list((tmp_path / 'cache/rank_0_of_1').glob('*.pt'))) > 3
    assert toy.evaluate(config) == wanted


def test_ranking_by_the_stale_head_is_a_switch(config):
    config.test_cfg.protocols = 'itm'
    runner = toy.build(config)
    with torch.no_grad():
        runner.model.rank_output.weight.normal_()
    trained = runner.test()
    runner.model.rank_by = 'rank_output'
    assert runner.test() != trained


def test_autocast(config):
    wanted = toy.evaluate(config)
    config.test_cfg.fp16 = True
    runner = toy.build(config)
    seen = []
    runner.model.itm_score.register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    metrics = runner.test()
    assert set(seen) == {torch.bfloat16}
    assert metrics.keys() == wanted.keys()


# ---- what cannot be evaluated ----------------------------------------------------------------


class Listed:
    """A data set of annotations alone."""

    def __init__(self, *infos):
        self.infos = infos

    def __len__(self):
        return len(self.infos)

    def get_data_info(self, index):
        return self.infos[index]


def info(image_id, *captions, ids=None, **more):
    text_id = [f'{image_id}/{k}' for k in range(len(captions))] if ids is None else ids
    return dict(dict(image_id=image_id, text=list(captions), text_id=text_id, img_path='x'), **more)


def test_gallery():
    gallery = Gallery.of_dataset(Listed(info(7, 'a', 'b'), dict(image_id=3, text='c', img_path='')
                                        | dict(img_bytes=b'x')))  # fmt: skip
    assert gallery.image_ids == [7, 3]
    assert gallery.texts == ['a', 'b', 'c']
    assert gallery.image_of_text.tolist() == [0, 0, 1]
    assert gallery.text_ids == ['7/0', '7/1', 2]


@pytest.mark.parametrize(
    ('infos', 'message'),
    [
        ([info(1, 'a'), info(2)], 'image 2 .sample 1. has no caption'),
        ([info(1, 'a', img_path=None)], 'image 1 .* has captions, but no image file'),
        ([info(1, 'a', ' ')], 'image 1 .* empty caption.*: .* .'),
        ([info(1, 'a'), info(1, 'b', ids=['x'])], "two images .* have the id 1 .*per='image'"),
        ([info(1, 'a', ids=[5]), info(2, 'b', ids=[5])], 'two captions .* have the id 5'),
        ([info(1, 'a', 'b', ids=[5])], 'image 1 .* has 2 captions, but 1 text_id'),
        ([info(1, 'a', 'b')], 'recall@2 needs at least 2 images, the data set has 1'),
    ],
)
def test_faulty_data_is_named(infos, message):
    with pytest.raises(ValueError, match=message):
        Gallery.of_dataset(Listed(*infos), least=2)


def test_no_captioned_images():
    with pytest.raises(KeyError, match=r"sample 0 .* no \['text'\].*per='image'"):
        Gallery.of_dataset(Listed(dict(image_id=1)))


def test_too_few_images_for_the_recall(config):
    config.test_evaluator.topk = (1, 20)
    with pytest.raises(ValueError, match='recall@20 needs at least 20 images, the data set has 13'):
        toy.evaluate(config)


@pytest.mark.parametrize(
    ('change', 'error', 'message'),
    [
        (dict(test_cfg=dict(protocols='itx')), ValueError, "protocols are some of .*'itx'"),
        (dict(test_cfg=dict(pair_batch_size=0)), ValueError, 'at least 1.*pair_batch_size'),
        (dict(model=dict(losses=('itm',))), ValueError, "'itc' needs the heads of contrast"),
        (dict(model=dict(losses=('itc',))), ValueError, "'itm' needs the heads of matching"),
        (dict(test_evaluator=dict(type='RetrievalRecall')), TypeError, 'use FiberRetrievalRecall'),
    ],
)
def test_settings_that_do_not_go_together(config, change, error, message):
    for key, value in change.items():
        config[key].update(value)
    with pytest.raises(error, match=message):
        toy.build(config).test()


def test_another_model_is_refused(config):
    runner = toy.build(config)
    runner.model = torch.nn.Linear(1, 1)
    with pytest.raises(TypeError, match='evaluates FiberRetrieval.*got Linear'):
        runner.test()


def test_a_model_in_pretraining_is_evaluated_as_one_for_retrieval(config):
    wanted = toy.evaluate(config)
    config.model.type = 'FiberPretrain'
    equal(toy.evaluate(config), wanted)


def test_a_validation_keeps_no_cache(config, tmp_path):
    for key in ('dataloader', 'evaluator', 'cfg'):
        config[f'val_{key}'] = config[f'test_{key}']
    config.val_cfg = dict(type='FiberRetrievalValLoop', cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match='cache_dir is for tests'):
        toy.build(config).val()
    config.val_cfg.pop('cache_dir')
    config.default_hooks = dict(checkpoint=dict(type='FiberCheckpointHook'))
    metrics = toy.build(config).val()
    assert {key.split('/')[0] for key in metrics} == {'itc'}


def test_a_foreign_folder_is_no_cache(config, tmp_path):
    folder = tmp_path / 'cache/rank_0_of_1'
    folder.mkdir(parents=True)
    (folder / 'thesis.txt').write_text('years of work')
    config.test_cfg.cache_dir = str(tmp_path / 'cache')
    with pytest.raises(CacheError, match='is no cache'):
        toy.evaluate(config)


def test_progress_and_scores_go_to_the_log(config):
    metrics = toy.evaluate(config)
    log = next(Path(config.work_dir).glob('*/*.log')).read_text()
    assert 'retrieval: 13 images, 25 captions, protocols itc, itm, itm_rerank' in log
    assert 'retrieval, encoding: 4 blocks of images' in log
    assert f'itm/TR@1: {metrics["itm/TR@1"]:.4f}' in log
