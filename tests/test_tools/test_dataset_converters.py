"""Image folder and captions to arrow tables and shards; what is rejected is reported."""

import json

import pytest
from PIL import Image
from tool_loader import load_tool

from fiber_mm.datasets import FiberArrowDataset, FiberShardDataset, caption_rows
from fiber_mm.datasets.caption_rows import read_rows

PIPELINE = [{'type': 'FiberLoadImage'}, {'type': 'FiberPackImageText'}]


def main(*args):
    """tools/dataset_converters/captions.py in this process."""
    return load_tool('dataset_converters/captions').main([str(arg) for arg in args])


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / 'images'
    (folder / 'sub').mkdir(parents=True)
    for number, name in enumerate(('a.png', 'sub/b.jpg', 'c.bmp', 'broken.png', 'd.png')):
        Image.new('RGB', (12, 8), (200, 0, 20 * number)).save(folder / name)
    path = folder / 'broken.png'
    path.write_bytes(path.read_bytes()[:40])
    return folder


ROWS = [
    {'image': 'a.png', 'caption': ['a dog', 'A dog', 'a dog']},
    {'image': 'sub/b.jpg', 'caption': 'a “cat”\nwith a line'},
    {'image': 'sub/b.jpg', 'caption': 'two cats'},
    {'image': 'c.bmp', 'caption': ['', 'a bus'], 'image_id': 7},
    {'image': 'broken.png', 'caption': 'a car'},
    {'image': 'missing.png', 'caption': 'a car'},
    {'image': 'd.png', 'caption': ' '},
    {'image': 'd.png', 'caption': 'a boat', 'image_id': 'sub/b.jpg'},
    {'image': 'c.bmp', 'caption': 'elsewhere in the list', 'image_id': 7},
]
PAIRS = [
    ('a.png', 'a dog'),
    ('a.png', 'A dog'),
    ('sub/b.jpg', 'a “cat”\nwith a line'),
    ('sub/b.jpg', 'two cats'),
    ('7', 'a bus'),
    ('7', 'elsewhere in the list'),
]
REASONS = {
    ('captions.jsonl:4', 'empty caption'),
    ('captions.jsonl:5', 'unreadable image'),
    ('captions.jsonl:6', 'unreadable image'),
    ('captions.jsonl:7', 'empty caption'),
    ('captions.jsonl:7', 'image without caption'),
    ('captions.jsonl:8', 'duplicate id'),
}


@pytest.fixture
def jsonl(tmp_path):
    path = tmp_path / 'captions.jsonl'
    path.write_text('\n'.join(json.dumps(row) for row in ROWS) + '\n')
    return path


def pairs(dataset):
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    return [(info['image_id'], info['text']) for info in infos]


def check_report(out, name):
    path = out / f'{name}.rejected.jsonl'
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(line['where'].split('/')[-1], line['reason']) for line in lines} == REASONS
    details = {line['image']: line['detail'] for line in lines}
    assert 'broken.png' in details['broken.png']
    assert 'missing.png' in details['missing.png']


def test_arrow(tmp_path, images, jsonl, capsys):
    out = tmp_path / 'out'
    assert main(jsonl, images, out, '--to', 'arrow', '--name', 'sbu_0') == 0
    printed = capsys.readouterr().out
    assert '3 images with 6 captions written' in printed
    assert '2 x unreadable image' in printed
    check_report(out, 'sbu_0')
    dataset = FiberArrowDataset(tables=['sbu_0'], data_root=str(out), pipeline=PIPELINE)
    assert pairs(dataset) == PAIRS
    assert dataset[4]['inputs'][:, 0, 0].tolist() == [40, 0, 200]

    assert main(jsonl, images, out, '--to', 'arrow', '--name', 'sbu_0') == 1
    assert '--overwrite' in capsys.readouterr().err
    assert main(jsonl, images, out, '--to', 'arrow', '--name', 'sbu_0', '--overwrite') == 0


def test_shards(tmp_path, images, jsonl):
    out = tmp_path / 'out'
    options = ('--to', 'shards', '--name', 'train', '--per-shard', 2)
    assert main(jsonl, images, out, *options) == 0
    check_report(out, 'train')
    assert [p.name for p in sorted(out.glob('*.tar'))] == ['train-000000.tar', 'train-000001.tar']
    stream = FiberShardDataset(str(out), pipeline=PIPELINE, shuffle=False, seed=0)
    assert stream.pairs_per_epoch == 6
    samples = iter(stream)
    found = [next(samples) for _ in range(6)]
    assert [(s['data_samples'].image_id, s['data_samples'].text) for s in found] == PAIRS
    assert found[4]['inputs'][:, 0, 0].tolist() == [40, 0, 200]  # bmp became png
    # fewer and larger shards than before: none of the old ones stays
    assert main(jsonl, images, out, *options[:-1], 10, '--overwrite') == 0
    assert [p.name for p in out.glob('*.tar')] == ['train-000000.tar']
    assert FiberShardDataset(str(out), seed=0).pairs_per_epoch == 6
    assert len(json.loads((out / 'index.json').read_text())['shardlist']) == 1


@pytest.mark.parametrize(
    ('kind', 'file'), [('shards', 'train-000000.tar'), ('arrow', 'train.arrow')]
)
def test_overwriting_replaces_when_all_is_there(tmp_path, images, jsonl, capsys, kind, file):
    out = tmp_path / 'out'
    for name in ('train', 'train-val'):
        assert main(jsonl, images, out, '--to', kind, '--name', name) == 0
    whole = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / 'cut.jsonl').write_text(json.dumps(ROWS[0]) + '\n{"image": "a.png"')
    (tmp_path / 'bad.jsonl').write_text('{"image": "no.png", "caption": "a"}\n')
    for list_, reason in (('no', 'no list'), ('cut', ':2 is no JSON'), ('bad', 'no image was')):
        options = ('--to', kind, '--name', 'train', '--overwrite')
        assert main(tmp_path / f'{list_}.jsonl', images, out, *options) == 1
        assert reason in capsys.readouterr().err
        left = {path.name: path.read_bytes() for path in out.iterdir()}
        del left['train.rejected.jsonl']
        assert left.items() <= whole.items()
        assert file in left
    # Files of another name that begins alike are no files of this name.
    (tmp_path / 'one.jsonl').write_text(json.dumps(ROWS[0]) + '\n')
    assert main(tmp_path / 'one.jsonl', images, out, '--to', kind, '--overwrite') == 0
    other = {name: content for name, content in whole.items() if name.startswith('train-val')}
    assert {name: (out / name).read_bytes() for name in other} == other
    assert (out / file).read_bytes() != whole[file]


def test_ids_of_any_kind(tmp_path):
    path = tmp_path / 'a.jsonl'
    rows = [dict(image='a.png', caption='a', image_id=id_) for id_ in (0, None, '', 'x')]
    path.write_text('\n'.join(map(json.dumps, rows)))
    assert [row.image_id for row in read_rows(path)] == ['0', 'a.png', 'x']


@pytest.mark.parametrize(('suffix', 'mark'), [('csv', ','), ('tsv', '\t')])
def test_csv(tmp_path, suffix, mark):
    path = tmp_path / f'captions.{suffix}'
    lines = [('image', 'caption'), ('a.png', '"one, two"'), ('a.png', 'three'), ('b.png', '')]
    path.write_text('\n'.join(mark.join(line) for line in lines) + '\n')
    rows = list(read_rows(path))
    assert [(r.image, r.captions) for r in rows] == [
        ('a.png', ['one, two' if suffix == 'csv' else '"one, two"', 'three']),
        ('b.png', []),
    ]
    where = f'{path}:4'
    assert (rows[1].where, rows[1].faults) == (where, [(where, 'empty caption', "''")])


def rejected(out):
    lines = (out / 'train.rejected.jsonl').read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_commas_in_captions_without_quotation_marks(tmp_path, images):
    path, out = tmp_path / 'a.csv', tmp_path / 'out'
    path.write_text(
        'image,caption\na.png,A red circle, above a blue square\na.png,"one, two"\nd.png,a,b,c\n'
    )
    assert main(path, images, out, '--to', 'arrow') == 0
    found = FiberArrowDataset(tables='train', data_root=str(out))
    assert pairs(found) == [('a.png', 'one, two')]
    lines = rejected(out)
    assert [(line['where'][len(str(path)) :], line['reason']) for line in lines] == [
        (':2', 'more fields than columns'),
        (':4', 'more fields than columns'),
        (':4', 'image without caption'),
    ]
    assert "[' above a blue square']; quote captions that contain commas" in lines[0]['detail']


def test_quotation_marks_in_tsv(tmp_path):
    """As web lists have them: neither closed nor doubled, and no part of the format."""
    path = tmp_path / 'a.tsv'
    lines = ('image\tcaption', 'a.png\t"Stop" sign', 'b.png\t"open', 'c.png\tthe end"',
             'd.png\ta\tb')  # fmt: skip
    path.write_text('\n'.join(lines))
    rows = list(read_rows(path))
    assert [(row.image, row.captions) for row in rows] == [
        ('a.png', ['"Stop" sign']),
        ('b.png', ['"open']),
        ('c.png', ['the end"']),
        ('d.png', []),
    ]
    assert rows[3].faults[0][1] == 'more fields than columns'


@pytest.mark.parametrize('by_chance', [False, True])
def test_rows_of_an_image_wherever_they_are(tmp_path, monkeypatch, by_chance):
    if by_chance:  # all hashes are the same
        monkeypatch.setattr(caption_rows, 'hash', lambda key: 1, raising=False)
    path = tmp_path / 'a.csv'
    images = 'abacbdbaad'
    lines = [f'{image}.png,caption {number}' for number, image in enumerate(images)]
    path.write_text('image,caption\n' + '\n'.join([*lines, 'c.png,']) + '\n')
    rows = {row.image: row for row in read_rows(path)}
    assert len(list(read_rows(path))) == len(rows) == 4
    for image in 'abcd':
        row = rows[f'{image}.png']
        numbers = [number for number, other in enumerate(images) if other == image]
        assert row.captions == [f'caption {number}' for number in numbers]
        assert row.where == f'{path}:{numbers[0] + 2}'
    assert rows['c.png'].faults == [(f'{path}:12', 'empty caption', "''")]


@pytest.mark.parametrize('kind', ['arrow', 'shards'])
def test_what_is_no_utf_8_is_rejected(tmp_path, images, kind):
    """JSON allows halves of a surrogate pair, and NUL bytes in names."""
    path, out = tmp_path / 'a.jsonl', tmp_path / 'out'
    rows = [
        dict(image='a.png', caption=['a', 'half \ud83d', 'whole \U0001f600']),
        dict(image='sub/b.jpg', caption='b', image_id='\udce9'),
        dict(image='c\0.png', caption='c'),
        dict(image='\ud83d.png', caption='d', image_id='d'),
        dict(image='d.png', caption='e'),
    ]
    path.write_text('\n'.join(map(json.dumps, rows)))
    assert main(path, images, out, '--to', kind) == 0
    if kind == 'arrow':
        found = pairs(FiberArrowDataset(tables='train', data_root=str(out)))
        assert found == [('a.png', 'a'), ('a.png', 'whole \U0001f600'), ('d.png', 'e')]
    else:
        assert FiberShardDataset(str(out), seed=0).pairs_per_epoch == 3
    lines = {line['where'][-1]: (line['image'], line['reason']) for line in rejected(out)}
    assert lines == {
        '1': ('a.png', 'caption that is no UTF-8'),
        '2': ('sub/b.jpg', 'id that is no UTF-8'),
        '3': ('c\0.png', 'unreadable image'),
        '4': ('\ud83d.png', 'unreadable image'),
    }
    assert 'is no name that a file can have: embedded null byte' in rejected(out)[2]['detail']


def test_help_has_the_columns(capsys):
    with pytest.raises(SystemExit):
        main('--help')
    printed = capsys.readouterr().out
    assert 'names the columns image and caption' in printed
    assert 'Rows with the same image and image_id are one image' in printed


@pytest.mark.parametrize('image', [123, None, ['a.png'], ''])
def test_images_that_are_no_names(tmp_path, images, image):
    path, out = tmp_path / 'a.jsonl', tmp_path / 'out'
    rows = [dict(image='a.png', caption='a'), dict(image=image, caption='b', image_id='x')]
    path.write_text('\n'.join(map(json.dumps, rows)))
    code = main(path, images, out, '--to', 'arrow')
    assert code == 0
    (line,) = map(json.loads, (out / 'train.rejected.jsonl').read_text().splitlines())
    assert (line['where'], line['image']) == (f'{path}:2', image)
    assert line['reason'] == 'unreadable image'
    if image != '':
        assert f'image is {image!r}, the name of a file is wanted' in line['detail']


@pytest.mark.parametrize('kind', ['jsonl', 'csv'])
def test_rows_that_lack_something_are_rejected(tmp_path, images, kind):
    path, out = tmp_path / f'a.{kind}', tmp_path / 'out'
    if kind == 'jsonl':
        path.write_text(
            '{"image": "a.png", "caption": null}\n{"image": "d.png"}\n{"caption": "of what?"}\n'
            '{"image": null, "caption": "of what?"}\n{"image": "a.png", "caption": "a"}\n'
        )
        wanted = {
            (1, 'a.png', 'empty caption'), (2, 'd.png', 'empty caption'),
            (2, 'd.png', 'image without caption'), (3, None, 'unreadable image'),
            (4, None, 'unreadable image'),
        }  # fmt: skip
    else:
        path.write_text('image,caption\nd.png\na.png,a\n')
        wanted = {(2, 'd.png', 'empty caption'), (2, 'd.png', 'image without caption')}
    assert main(path, images, out, '--to', 'arrow') == 0
    assert pairs(FiberArrowDataset(tables='train', data_root=str(out))) == [('a.png', 'a')]
    found = {(int(r['where'].split(':')[-1]), r['image'], r['reason']) for r in rejected(out)}
    assert found == wanted


def test_of_two_images_with_one_id_the_first_is_taken(tmp_path, images):
    path, out = tmp_path / 'a.jsonl', tmp_path / 'out'
    rows = [
        dict(image='a.png', caption='first'),
        dict(image='d.png', image_id='a.png', caption=['z', '']),
        dict(image='a.png', caption='later'),
    ]
    path.write_text('\n'.join(map(json.dumps, rows)))
    assert main(path, images, out, '--to', 'arrow') == 0
    found = pairs(FiberArrowDataset(tables='train', data_root=str(out)))
    assert found == [('a.png', 'first'), ('a.png', 'later')]
    (line,) = rejected(out)
    assert (line['where'], line['image'], line['reason']) == (f'{path}:2', 'd.png', 'duplicate id')
    assert line['detail'].endswith('; 2 captions go with it')


def test_csv_with_a_mark_of_utf_8(tmp_path):
    path = tmp_path / 'captions.csv'
    path.write_text('image,caption\na.png,a café\n', encoding='utf-8-sig')
    assert [(r.image, r.captions) for r in read_rows(path)] == [('a.png', ['a café'])]


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        (
            'a.csv',
            b'image,caption\na.png,a\nb.png,caf\xe9\n',
            r'a\.csv is no UTF-8 text.*save it as',
        ),
        ('a.csv', 'image,caption\n'.encode('utf-16'), r'a\.csv is no UTF-8 text'),
        (
            'a.csv',
            b'image,caption\na.png,a\nb.png,"an open mark\n' + b'c.png,c\n' * 20000,
            r'a\.csv:3: the row that begins here cannot be read: field larger.*quotation mark',
        ),
        (
            'a.tsv',
            b'image\tcaption\na.png\t' + b'a' * 200000,
            r'a\.tsv:2: the row that begins here cannot be read: field larger than .*\)$',
        ),
        ('a.csv', b'image,text\na.png,a\n', r"a\.csv:2 has no \['caption'\], only .*'text'\]"),
        ('a.jsonl', b'{"image": "a.png", "text": "a"}', r"a\.jsonl:1 has no \['caption'\], only"),
        ('a.tsv', b'a dog\thttps://a/b.jpg\na cat\tb\n', r'a\.tsv:2 has no .*the first line has'),
        (
            'a.jsonl',
            b'{"image": "a.png", "caption": "caf\xe9"}',
            r"a\.jsonl:1 is no .*'utf-8' codec",
        ),
        ('a.jsonl', b'["a.png", "a"]', r'a\.jsonl:1 is no JSON object with image and caption'),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        list(read_rows(tmp_path / name))


def test_an_index_of_something_else(tmp_path, images, jsonl, capsys):
    """Found before the work, and nothing is touched."""
    out = tmp_path / 'out'
    assert main(jsonl, images, out, '--to', 'shards') == 0
    (out / 'index.json').write_text('{"version": 1}')
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert main(jsonl, images, out, '--to', 'shards', '--overwrite') == 1
    assert 'out/index.json is no index of shards' in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_faulty_input(tmp_path, images, jsonl, capsys):
    def error(*args):
        assert main(*args, '--to', 'arrow') == 1
        return capsys.readouterr().err

    assert 'no list of captions' in error(tmp_path / 'no.jsonl', images, tmp_path / 'out')
    assert 'no image folder' in error(jsonl, tmp_path / 'no', tmp_path / 'out')
    (tmp_path / 'a.txt').write_text('')
    assert '.jsonl, .csv or .tsv' in error(tmp_path / 'a.txt', images, tmp_path / 'out')
    (tmp_path / 'a.jsonl').write_text('{"image": "a.png"}\n')
    assert "a.jsonl:1 has no ['caption']" in error(tmp_path / 'a.jsonl', images, tmp_path / 'out')
    (tmp_path / 'a.jsonl').write_text('{"image": "a.png"')
    assert 'a.jsonl:1 is no JSON' in error(tmp_path / 'a.jsonl', images, tmp_path / 'out')
    (tmp_path / 'a.jsonl').write_text('{"image": "no.png", "caption": "a"}\n')
    assert 'no image was written' in error(tmp_path / 'a.jsonl', images, tmp_path / 'out')
    assert not (tmp_path / 'out' / '.train.arrow.partial').exists()
