import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from fiber_mm.datasets.transforms.image import UnreadableImageError, read_image
from fiber_mm.index import Embedder, ImageIndex, ImageIndexError

from .toy import SIZE, build, build_model, draw_images, touch

pytest.importorskip('faiss', reason='needs faiss-cpu, an optional requirement')

TEXTS = ('a red circle', 'a dog', 'traffic light left of the small blue square')


@pytest.fixture
def index(tmp_path, photos, model):
    return build(tmp_path / 'index', photos, model)


def pixels(path):
    """As the model sees an image, without the code of the index."""
    rgb = Image.fromarray(np.ascontiguousarray(read_image(str(path))))
    square = np.asarray(rgb.resize((SIZE, SIZE), Image.Resampling.BICUBIC))
    values = torch.from_numpy(square.copy()).permute(2, 0, 1).float()
    mean, std = torch.tensor([100.0, 110.0, 120.0]), torch.tensor([50.0, 55.0, 60.0])
    return ((values - mean[:, None, None]) / std[:, None, None])[None]


def text_of(model, text):
    ids = model.data_preprocessor.text.tokenizer(text)['input_ids']
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool)


@torch.no_grad()
def cosines(model, photos, text):
    """Path to similarity, one image at a time."""
    query = model.contrast_text(model.encoder.text_trunk(*text_of(model, text))).pooled[0]
    return {
        path.relative_to(photos).as_posix(): float(
            model.contrast_image(model.encoder.image_trunk(pixels(path))).pooled[0] @ query
        )
        for path in photos.rglob('*.*')
    }


@torch.no_grad()
def matches(model, photos, text):
    """Path to probability of a match, one pair at a time."""
    return {
        path.relative_to(photos).as_posix(): float(
            model.itm_score(model(pixels(path), *text_of(model, text)).pooled).softmax(-1)[0, 1]
        )
        for path in photos.rglob('*.*')
    }


def ranked(scores):
    return sorted(scores, key=lambda path: -scores[path])


@pytest.mark.parametrize('text', TEXTS)
def test_order_is_that_of_brute_force(index, photos, model, text):
    wanted = cosines(model, photos, text)
    values = sorted(wanted.values())
    assert min(b - a for a, b in itertools.pairwise(values)) > 1e-5  # the order means something
    hits = index.search(text, k=5)
    assert [hit.path for hit in hits] == ranked(wanted)[:5]
    for hit in hits:
        assert hit.similarity == pytest.approx(wanted[hit.path], abs=2e-6)
        assert hit.file == photos / hit.path
        assert hit.match is None
        assert hit.problem is None
    assert [hit.path for hit in index.search(text, k=99)] == ranked(wanted)


def test_reranking_is_that_of_single_pairs(index, photos, model):
    text = TEXTS[2]
    first = ranked(cosines(model, photos, text))
    wanted = matches(model, photos, text)
    assert len({round(score, 4) for score in wanted.values()}) == 12
    hits = index.search(text, k=9, rerank=7)
    best = ranked({path: wanted[path] for path in first[:7]})
    assert best != first[:7]
    assert [hit.path for hit in hits] == best + first[7:9]
    for hit in hits[:7]:
        assert hit.match == pytest.approx(wanted[hit.path], abs=2e-6)
    assert [hit.match for hit in hits[7:]] == [None, None]
    # More candidates than are shown.
    shown = index.search(text, k=2, rerank=12)
    assert [hit.path for hit in shown] == ranked(wanted)[:2]


def test_sure_matches_keep_their_order(index, photos, model, monkeypatch):
    """By log-odds of 40 and 41 the probability is 1 in either case."""
    odds = torch.linspace(40, 51, 12)
    monkeypatch.setattr(
        index.embedder, 'match', lambda images, text: odds[: len(images)].numpy().copy()
    )
    monkeypatch.setattr(index, 'batch_size', 12)
    hits = index.search(TEXTS[2], k=12, rerank=12)
    assert [hit.path for hit in hits] == ranked(cosines(model, photos, TEXTS[2]))[::-1]
    assert {hit.match for hit in hits} == {1.0}


def test_reranking_computes_each_trunk_once(index, model):
    calls = {'image': 0, 'text': 0}

    def count(name):
        trunk = getattr(model.encoder, f'{name}_trunk')

        def counted(x, *args):
            calls[name] += len(x)
            return trunk(x, *args)

        setattr(model.encoder, f'{name}_trunk', counted)

    count('image')
    count('text')
    index.batch_size = 3
    index.search('a dog', k=2, rerank=8)
    assert calls == {'image': 8, 'text': 1}


def test_an_image_finds_itself(index, photos, tmp_path):
    path = photos / '04.png'
    hits = index.search_image(path, k=3)
    assert hits[0].path == '04.png'
    assert hits[0].similarity == pytest.approx(1, abs=1e-5)
    assert hits[1].similarity < 0.999
    with pytest.raises(UnreadableImageError, match='nowhere.png'):
        index.search_image(tmp_path / 'nowhere.png')


def test_missing_and_changed_files_are_reported(index, photos, model):
    text = TEXTS[0]
    order = ranked(cosines(model, photos, text))
    (photos / order[0]).unlink()
    touch(photos / order[1])
    (photos / order[2]).write_bytes(b'no image')
    hits = index.search(text, k=4)
    changed = 'changed since it was indexed'
    assert [hit.path for hit in hits] == order[:4]
    assert [hit.problem for hit in hits] == ['missing', changed, changed, None]
    hits = index.search(text, k=6, rerank=5)
    assert [hit.path for hit in hits[3:5]] == [order[0], order[2]]  # behind what could be read
    assert hits[3].problem == 'missing'
    assert order[2] in hits[4].problem
    assert hits[5].path == order[5]


def test_moved_images(index, photos, model, tmp_path):
    wanted = [hit.path for hit in index.search('a dog')]
    photos.rename(tmp_path / 'elsewhere')
    with pytest.raises(NotADirectoryError, match='--images'):
        ImageIndex(tmp_path / 'index', model)
    hits = ImageIndex(tmp_path / 'index', model, tmp_path / 'elsewhere').search('a dog')
    assert [hit.path for hit in hits] == wanted
    assert all(hit.problem is None for hit in hits)


def test_another_model_is_refused(index, photos, tokenizer_dir, tmp_path):
    folder = tmp_path / 'index'
    other = build_model(tokenizer_dir, seed=1)
    with pytest.raises(ImageIndexError, match=r'by another model \(weights [0-9a-f]{12}\.\.\. the'):
        ImageIndex(folder, other)
    with pytest.raises(ImageIndexError, match='by another model'):
        build(folder, photos, other)
    other = build_model(tokenizer_dir)
    other.data_preprocessor.mean += 1
    with pytest.raises(ImageIndexError, match=r'mean \[100.0, .* there, \[101.0'):
        ImageIndex(folder, other)
    with pytest.raises(ImageIndexError, match="precision 'fp32' there, 'bf16' here"):
        build(folder, photos, build_model(tokenizer_dir), precision='bf16')
    # The same dual encoder without the other heads, or with other ones, is the same model.
    alone = build_model(tokenizer_dir, parts=('itc',))
    alone.load_state_dict(build_model(tokenizer_dir).state_dict(), strict=False)
    assert ImageIndex(folder, alone).search('a dog') == index.search('a dog')
    with pytest.raises(ImageIndexError, match=r"needs the parts \['fused', 'itm'\]"):
        ImageIndex(folder, alone).search('a dog', rerank=3)


def test_bf16(photos, model, tmp_path, index):
    low = build(tmp_path / 'low', photos, model, precision='bf16')
    assert ImageIndex(tmp_path / 'low', model).embedder.precision == 'bf16'
    exact = {hit.path: hit.similarity for hit in index.search('a dog', 12)}
    found = low.search('a dog', 12, rerank=12)
    assert len(found) == len(exact)
    for hit in found:
        assert hit.similarity == pytest.approx(exact[hit.path], abs=0.05)
    assert any(abs(hit.similarity - exact[hit.path]) > 1e-5 for hit in found)


def test_size(photos, model, tmp_path):
    model.cfg.test_dataloader = None
    with pytest.raises(ImageIndexError, match='--size'):
        build(tmp_path / 'index', photos, model)
    build(tmp_path / 'index', photos, model, size=64)
    assert ImageIndex(tmp_path / 'index', model).embedder.size == 64


def test_size_of_nested_data_sets(model):
    model.cfg.test_dataloader = None
    crop = dict(type='FiberRandomResizedCrop', size=48)
    model.cfg.train_dataloader = dict(
        dataset=dict(type='Concat', datasets=[dict(pipeline=[dict(type='Load'), crop])])
    )
    assert Embedder(model).size == 48


@pytest.mark.parametrize(
    ('arguments', 'error', 'message'),
    [
        ({'text': ' '}, ValueError, "at least one word is wanted, got ' '"),
        ({'text': 'a', 'k': 0}, ValueError, 'k of at least 1'),
        ({'text': 'a', 'rerank': -1}, ValueError, 'rerank of at least 0'),
    ],
)
def test_faulty_queries(index, arguments, error, message):
    with pytest.raises(error, match=message):
        index.search(**arguments)


def test_models_without_a_dual_encoder(tokenizer_dir):
    with pytest.raises(ImageIndexError, match="no part 'itc'"):
        Embedder(build_model(tokenizer_dir, parts=('fused', 'itm')))
    model = build_model(tokenizer_dir, data_preprocessor=None)
    with pytest.raises(ImageIndexError, match='wanted FiberImageTextPreprocessor, got BaseData'):
        Embedder(model)


def test_damaged_weights(photos, model, tmp_path):
    with torch.no_grad():
        model.cross_modal_image_pooler_itc.dense.bias[0] = float('nan')
    with pytest.raises(ImageIndexError, match='look for NaN in the checkpoint'):
        build(tmp_path / 'index', photos, model)


def test_faulty_folders(index, photos, model, tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no index'):
        ImageIndex(tmp_path / 'nowhere', model)
    with pytest.raises(ImageIndexError, match='holds no index of images'):
        ImageIndex(photos, model)
    folder = tmp_path / 'index'
    (features,) = folder.glob('features-*.faiss')
    whole = features.read_bytes()
    features.write_bytes(whole[:-40])
    with pytest.raises(ImageIndexError, match=r'features-000001.faiss is damaged .*--overwrite'):
        ImageIndex(folder, model)
    features.unlink()
    with pytest.raises(ImageIndexError, match=r'features-000001.faiss is missing'):
        ImageIndex(folder, model)
    features.write_bytes(whole)
    (table,) = folder.glob('images-*.jsonl')
    lines = table.read_text().splitlines()
    table.write_text('\n'.join(lines[1:]) + '\n')
    with pytest.raises(ImageIndexError, match='lists 11 images, index.json says 12'):
        ImageIndex(folder, model)
    row = json.loads(lines[0])
    table.write_text('\n'.join([json.dumps(dict(row, id=1)), *lines[1:]]) + '\n')
    with pytest.raises(ImageIndexError, match='do not belong together'):
        ImageIndex(folder, model).search('a dog', 12)
    (folder / 'index.json').write_text('{"version": 99}')
    with pytest.raises(ImageIndexError, match='version 99'):
        ImageIndex(folder, model)
    (folder / 'index.json').write_text('{')
    with pytest.raises(ImageIndexError, match=r'index.json is damaged .*--overwrite'):
        ImageIndex(folder, model)
    assert len(build(folder, photos, model, overwrite=True)) == 12


@pytest.mark.parametrize('factory', ['IVF4,Flat', 'PCA8,Flat', 'SQfp16', 'HNSW8'])
def test_other_kinds_of_index(photos, model, tmp_path, index, factory):
    draw_images(photos, range(12, 60))
    exact = build(tmp_path / 'exact', photos, model).search('a dog', 20)
    folder = tmp_path / 'other'
    hits = build(folder, photos, model, factory=factory).search('a dog', 20)
    assert len({hit.path for hit in hits} & {hit.path for hit in exact}) >= 15
    draw_images(photos, [60])
    assert len(build(folder, photos, model)) == 61
    (photos / '01.bmp').unlink()
    if factory == 'HNSW8':
        with pytest.raises(ImageIndexError, match="kind 'HNSW8' cannot forget any"):
            build(folder, photos, model)
        assert len(ImageIndex(folder, model).search('a dog', 20)) == 20
        return
    grown = build(folder, photos, model)
    paths = {hit.path for hit in grown.search('a dog', 99)}
    assert len(paths) == 60
    assert {'60.png', 'sub/60.png'} & paths
    assert '01.bmp' not in paths


def test_kinds_that_do_not_work(photos, model, tmp_path, index):
    with pytest.raises(ImageIndexError, match="an index 'Nonsense' .*could not parse"):
        build(tmp_path / 'new', photos, model, factory='Nonsense')
    with pytest.raises(ImageIndexError, match="of the kind 'Flat', not 'HNSW8'"):
        build(tmp_path / 'index', photos, model, factory='HNSW8')
    with pytest.raises(ImageIndexError, match='cannot be trained on 12 images'):
        build(tmp_path / 'new', photos, model, factory='IVF64,Flat')
    with pytest.raises(ImageIndexError, match='is not finished'):
        ImageIndex(tmp_path / 'new', model)
    # With another kind the work goes on.
    assert build(tmp_path / 'new', photos, model, factory='Flat').report.resumed == 12
    # A mistake does not cost an index that is there.
    with pytest.raises(ImageIndexError, match='Nonsense'):
        build(tmp_path / 'index', photos, model, factory='Nonsense', overwrite=True)
    assert len(ImageIndex(tmp_path / 'index', model)) == 12
