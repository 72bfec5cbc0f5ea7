"""Files of captioned images open with the readers of the real ones."""

import json
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from tool_loader import load_tool

from fiber_mm.datasets import (
    FiberArrowDataset,
    FiberKarpathyDataset,
    FiberShardDataset,
    FiberVGCaptionDataset,
)
from fiber_mm.shapes import generate_shapes
from fiber_mm.shapes.caption_files import FORMATS, write_caption_files

from .conftest import SEED, SPLITS
from .test_generate import files_of

PIPELINE = [{'type': 'FiberLoadImage'}, {'type': 'FiberPackImageText'}]


@pytest.fixture(scope='module')
def complete(tmp_path_factory):
    """With all formats from the start."""
    out = tmp_path_factory.mktemp('shapes') / 'data'
    generate_shapes(out, SPLITS, SEED, workers=1, progress=False, formats=FORMATS)
    return out


def karpathy(folder, **options):
    return FiberKarpathyDataset('annotations/dataset_coco.json', data_root=str(folder), **options)


def texts(dataset):
    return [dataset.get_data_info(i)['text'] for i in range(len(dataset))]


def test_karpathy(folder, rows):
    train, test = karpathy(folder, per='image'), karpathy(folder, split='test', per='image')
    assert len(train) == SPLITS['train']
    assert len(test) == SPLITS['val']
    assert len(karpathy(folder, split=['val'], per='image')) == 3  # every tenth of 24
    for dataset, split in ((train, 'train'), (test, 'val')):
        for i, scene in enumerate(rows[split]):
            info = dataset.get_data_info(i)
            assert info['image_id'] == scene['image_id']
            assert info['img_path'].endswith(f'{split}/{scene["file_name"]}')
    sample = karpathy(folder, pipeline=PIPELINE)[0]
    assert sample['inputs'].shape == (3, 256, 256)
    assert sample['data_samples'].text.endswith(' .')


def test_entries_are_laid_out_as_karpathys(folder):
    content = json.loads((folder / 'annotations' / 'dataset_coco.json').read_text())
    assert content['dataset'] == 'coco'
    image = content['images'][0]
    assert {'filepath', 'filename', 'imgid', 'cocoid', 'split', 'sentids', 'sentences'} <= set(
        image
    )
    sentence = image['sentences'][0]
    assert sentence['sentid'] == image['sentids'][0]
    assert ' '.join(sentence['tokens']) == sentence['raw'].removesuffix(' .')
    seen = [s['unseen'] for i in content['images'] if i['filepath'] == 'train'
            for s in i['sentences']]  # fmt: skip
    assert not any(seen)


def test_arrow(complete):
    for split in ('train', 'test'):
        arrow = FiberArrowDataset('coco', split, data_root=str(complete / 'arrow'), per='image',
                                  pipeline=PIPELINE)  # fmt: skip
        wanted = karpathy(complete, split=split, per='image', pipeline=PIPELINE)
        assert sorted(texts(arrow)) == sorted(texts(wanted))
        by_text = {tuple(wanted.get_data_info(i)['text']): i for i in range(len(wanted))}
        other = wanted[by_text[tuple(arrow.get_data_info(0)['text'])]]
        assert np.array_equal(arrow[0]['inputs'], other['inputs'])


def test_shards(complete):
    for split in SPLITS:
        stream = FiberShardDataset(f'shards/{split}', str(complete), PIPELINE, seed=0)
        wanted = karpathy(complete, split='train' if split == 'train' else 'test')
        assert stream.pairs_per_epoch == len(wanted)
        samples = iter(stream)
        found = [next(samples)['data_samples'].text for _ in range(len(wanted))]
        assert sorted(found) == sorted(texts(wanted))


def test_flickr30k(complete, rows):
    dataset = FiberKarpathyDataset(
        'annotations/dataset_flickr30k.json', data_root=str(complete), split='test', per='image'
    )
    assert len(dataset) == SPLITS['val']
    for i, scene in enumerate(rows['val']):
        info = dataset.get_data_info(i)
        assert info['image_id'] == scene['image_id']
        assert info['img_path'] == str(complete / 'val' / scene['file_name'])
        assert info['text'] == list(dict.fromkeys(c['text'] for c in scene['captions']))


def test_visual_genome(complete, rows):
    dataset = FiberVGCaptionDataset(
        'annotations/region_descriptions_val.json',
        data_root=str(complete),
        image_data='annotations/image_data_val.json',
        per='image',
    )
    assert len(dataset) == SPLITS['val']
    path = complete / 'annotations' / 'region_descriptions_val.json'
    for i, (row, scene) in enumerate(zip(json.loads(path.read_text()), rows['val'], strict=True)):
        info = dataset.get_data_info(i)
        assert info['img_path'] == str(complete / 'val' / scene['file_name'])
        assert info['text'] == [region['phrase'] for region in row['regions']]
        named = {(e['text'], tuple(scene['objects'][e['object']]['box']))
                 for e in scene['expressions']}  # fmt: skip
        regions = [(r['phrase'], (r['x'], r['y'], r['width'], r['height'])) for r in row['regions']]
        assert named <= set(regions)
        known = [tuple(o['box']) for o in scene['objects']]
        assert all(box in known for _, box in regions)


def entity_phrases(line: str) -> tuple[str, list[tuple[str, str]]]:
    """Plain sentence and (entity id, phrase) pairs, as the Entities tools read them."""
    found = re.findall(r'\[/EN#(\d+)/\w+ ([^\]]+)\]', line)
    return re.sub(r'\[/EN#\d+/\w+ ([^\]]+)\]', r'\1', line), found


def test_entities(complete, rows):
    root = complete / 'flickr30k_entities'
    listed = (root / 'val.txt').read_text().split()
    assert listed == [s['file_name'][:-4] for s in rows['val']]
    for stem, scene in zip(listed, rows['val']):
        tree = ET.parse(root / 'Annotations' / f'{stem}.xml').getroot()
        assert tree.find('filename').text == f'{stem}.jpg'
        found: dict[str, list] = {}
        for obj in tree.findall('object'):
            box = [int(obj.find('bndbox').find(k).text) for k in ('xmin', 'ymin', 'xmax', 'ymax')]
            found.setdefault(obj.find('name').text, []).append(box)
        lines = (root / 'Sentences' / f'{stem}.txt').read_text().splitlines()
        for line, caption in zip(lines, scene['captions'], strict=True):
            text, phrases = entity_phrases(line)
            assert text == caption['text']
            for (entity, words), phrase in zip(phrases, caption['phrases'], strict=True):
                assert words == phrase['phrase']
                wanted = [scene['objects'][i]['box'] for i in phrase['objects']]
                assert found[entity] == [[x + 1, y + 1, x + w, y + h] for x, y, w, h in wanted]


def test_formats_are_added_later_and_change_nothing_else(folder, complete, tmp_path):
    out = tmp_path / 'data'
    generate_shapes(out, SPLITS, SEED, workers=1, progress=False)
    before = files_of(out)
    assert before == files_of(folder)
    # a folder of before there were captions
    (out / 'annotations' / 'dataset_coco.json').unlink()
    assert generate_shapes(out, SPLITS, SEED, progress=False)
    assert files_of(out) == before
    assert not generate_shapes(out, SPLITS, SEED, progress=False)
    assert generate_shapes(out, SPLITS, SEED, progress=False, formats=list(FORMATS))
    assert files_of(out) == files_of(complete)
    assert not generate_shapes(out, SPLITS, SEED, progress=False, formats=FORMATS[::-1])
    assert {k: v for k, v in files_of(out).items() if k in before} == before


def test_a_split_beside_val_has_files_of_its_own(tmp_path):
    out = tmp_path / 'data'
    splits = {'train': 2, 'val': 2, 'test': 3}
    generate_shapes(out, splits, 0, workers=1, progress=False, formats=['arrow'])
    extra = FiberKarpathyDataset('annotations/dataset_coco_test.json', data_root=str(out),
                                 split='test', per='image')  # fmt: skip
    assert len(extra) == 3
    assert len(karpathy(out, split='test', per='image')) == 2
    tables = sorted(p.stem for p in (out / 'arrow').iterdir())
    names = ('test', 'test_test', 'train', 'val')
    assert tables == [f'coco_caption_karpathy_{name}' for name in names]


def test_interruption_leaves_no_half_file(folder, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr('fiber_mm.shapes.caption_files.scene_from_dict', full)
    for split in SPLITS:
        name = f'scenes_{split}.jsonl'
        (tmp_path / name).write_text((folder / name).read_text())
    for formats in ((), *((name,) for name in FORMATS)):
        with pytest.raises(OSError, match='No space left'):
            write_caption_files(tmp_path, list(SPLITS), formats)
    assert [p for p in tmp_path.rglob('*') if p.is_file() and 'scenes' not in p.name] == []


def test_unknown_format(tmp_path, capsys):
    with pytest.raises(ValueError, match='unknown formats .*there are arrow, shards, flickr'):
        generate_shapes(tmp_path / 'data', {'val': 2}, formats=['parquet'])
    main, out = load_tool('make_shapes').main, str(tmp_path / 'data')
    assert main([out, '--split', 'val=2', '--workers', '1', '--formats', 'arrow']) == 0
    assert (tmp_path / 'data' / 'arrow' / 'coco_caption_karpathy_test.arrow').is_file()
    with pytest.raises(SystemExit):
        main([out, '--formats', 'parquet'])
    assert 'parquet' in capsys.readouterr().err
