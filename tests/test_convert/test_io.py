import os
import pickle
import resource
import sys
import zipfile

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import load_checkpoint
from torch import nn

from fiber_mm.convert import (
    ConversionError,
    pick_tensors,
    read_checkpoint,
    torch_load,
    write_checkpoint,
    write_original,
)

STATE = {'a.weight': torch.arange(6.0).view(2, 3), 'b': torch.tensor(0.5)}


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_foreign_pickle_is_refused_and_not_run(tmp_path, zipped):
    trap, path = tmp_path / 'trap', tmp_path / 'bad.pth'
    torch.save(
        {'state_dict': STATE, 'hyper_parameters': Bomb(trap)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    with pytest.raises(ConversionError, match='was refused.*nothing of it was run') as error:
        torch_load(path)
    assert str(path) in str(error.value)
    assert 'mkdir' in str(error.value)
    assert not trap.exists()
    # It is a trap indeed.
    torch.load(path, weights_only=False)
    assert trap.exists()


def test_plain_pickle_of_foreign_objects_is_refused(tmp_path):
    trap, path = tmp_path / 'trap', tmp_path / 'bad.pkl'
    path.write_bytes(pickle.dumps({'state_dict': Bomb(trap)}, protocol=2))
    with pytest.raises(ConversionError):
        torch_load(path)
    assert not trap.exists()


def _pickle_of(module, name, kind):
    """A torch file with an object of a class that is not installed here."""
    scope = {}
    exec(f'class {name}({kind}): pass', scope)
    cls = scope[name]
    cls.__module__ = module
    return cls


@pytest.mark.parametrize(
    ('module', 'name', 'kind'),
    [
        ('pytorch_lightning.callbacks.model_checkpoint', 'ModelCheckpoint', 'object'),
        ('pytorch_lightning.utilities.parsing', 'AttributeDict', 'dict'),
        ('sacred.config.custom_containers', 'ReadOnlyDict', 'dict'),
        ('sacred.config.custom_containers', 'ReadOnlyList', 'list'),
    ],
)
def test_lightning_checkpoint_is_read_without_lightning(tmp_path, monkeypatch, module, name, kind):
    parts = module.split('.')
    cls = _pickle_of(module, name, kind)
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, '.'.join(parts[:i]), type(sys)('.'.join(parts[:i])))
    setattr(sys.modules[module], name, cls)
    value = cls([1, 2]) if kind == 'list' else cls(a=1) if kind == 'dict' else cls()
    if kind != 'list':  # objects have attributes of their own
        value.extra = 3
    path = tmp_path / 'lightning.ckpt'
    torch.save(
        {
            'state_dict': STATE,
            'hyper_parameters': value,
            'callbacks': {cls: {'best': 1.0}},
            'optimizer_states': [{'state': {0: {'step': 3}}, 'param_groups': [{'lr': 1e-5}]}],
        },
        path,
    )
    monkeypatch.delattr(sys.modules[module], name)
    loaded = pick_tensors(torch_load(path))
    assert loaded.keys() == STATE.keys()
    assert torch.equal(loaded['a.weight'], STATE['a.weight'])


def test_training_checkpoint_of_mmengine_is_read(tmp_path):
    path = tmp_path / 'epoch_1.pth'
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    torch.save(
        {
            'state_dict': STATE,
            'message_hub': {'log_scalars': {'loss': history}},
            'meta': {'seed': np.float64(1.0), 'iter': 3},
        },
        path,
    )
    assert pick_tensors(torch_load(path)).keys() == STATE.keys()


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('share', [0.0, 0.3, 0.9])
def test_truncated_file(tmp_path, suffix, share):
    path = tmp_path / f'cut{suffix}'
    write_checkpoint(path, {'a': torch.zeros(1000)})
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ConversionError, match='truncated|empty') as error:
        read_checkpoint(path)
    assert str(path) in str(error.value)


def test_what_is_no_checkpoint(tmp_path):
    image = tmp_path / 'image.pth'
    image.write_bytes(b'\x89PNG\r\n\x1a\n' + b'x' * 100)
    with pytest.raises(ConversionError, match='cannot be read as a torch checkpoint'):
        torch_load(image)
    archive = tmp_path / 'archive.pth'
    with zipfile.ZipFile(archive, 'w') as file:
        file.writestr('readme.txt', 'nothing')
    with pytest.raises(ConversionError, match='cannot be read as a torch checkpoint'):
        torch_load(archive)
    for name in ('none.pth', 'none.safetensors'):
        with pytest.raises(FileNotFoundError, match=name):
            read_checkpoint(tmp_path / name)


@pytest.mark.parametrize('name', ['state_dict', 'model'])
def test_containers(name):
    assert pick_tensors({name: STATE, 'optimizer': {}, 'iteration': 3}) == STATE
    assert pick_tensors(STATE) == STATE


def test_moving_average():
    ema = {'a.weight': torch.zeros(2, 3), 'b': torch.ones(())}
    fine = {'model': STATE, 'model_ema': {f'module.{k}': v for k, v in ema.items()}}
    assert pick_tensors(fine, ema=True) == ema
    assert pick_tensors(fine) == STATE
    # MMEngine's EMA hook writes the average as the model's weights.
    raw = {'steps': torch.tensor(3), **{f'module.{k}': v for k, v in STATE.items()}}
    engine = {'state_dict': ema, 'ema_state_dict': raw}
    assert pick_tensors(engine, ema=True) == pick_tensors(engine) == ema
    with pytest.raises(ConversionError, match='no moving average.*keys are ema_state_dict'):
        pick_tensors({'ema_state_dict': raw}, ema=True)
    with pytest.raises(ConversionError, match='no moving average.*keys are model'):
        pick_tensors({'model': STATE}, ema=True)


def test_module_prefix_goes_only_if_all_have_it():
    wrapped = {f'module.{k}': v for k, v in STATE.items()}
    assert pick_tensors({'model': wrapped}) == STATE
    mixed = wrapped | {'c': torch.zeros(1)}
    assert pick_tensors({'model': mixed}) == mixed


def test_containers_of_something_else():
    with pytest.raises(ConversionError, match='holds a list'):
        pick_tensors([1])
    with pytest.raises(ConversionError, match='no tensors: epoch, nested'):
        pick_tensors({'epoch': 3, 'nested': {}})


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_write_and_read(tmp_path, suffix):
    path = tmp_path / f'ours{suffix}'
    base = torch.arange(12.0)
    write_checkpoint(
        path,
        STATE | {'view': base[2:4], 'same': base[2:4]},
        {'family': 'fine'},
        {'rpn.x': torch.ones(2)},
    )
    loaded = read_checkpoint(path)
    assert loaded['meta'] == {'family': 'fine'}
    assert loaded['unused'].keys() == {'rpn.x'}
    assert torch.equal(loaded['state_dict']['view'], base[2:4])
    assert loaded['state_dict']['view'].untyped_storage().nbytes() == 8
    assert oct(path.stat().st_mode)[-3:] == oct(0o666 & ~_umask())[-3:]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_mmengine_loads_our_files(tmp_path, suffix):
    path = tmp_path / f'ours{suffix}'
    source, model = nn.Linear(3, 2), nn.Linear(3, 2)
    write_checkpoint(path, source.state_dict(), {'family': 'x'}, {'unused.key': torch.ones(1)})
    load_checkpoint(model, str(path), strict=True)
    assert torch.equal(model.weight, source.weight)


@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
def test_full_disk_leaves_the_old_file(tmp_path, suffix):
    """A file-size limit stands for the full disk; it is real for this process."""
    path = tmp_path / f'ours{suffix}'
    write_checkpoint(path, STATE)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # Python ignores the signal
    try:
        with pytest.raises(OSError, match='could not be written') as error:
            write_checkpoint(path, {'a': torch.zeros(100_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(path) in str(error.value)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_write_original(tmp_path):
    path = tmp_path / 'back.ckpt'
    write_original(path, 'model', STATE)
    assert torch.load(path, weights_only=True)['model'].keys() == STATE.keys()
    with pytest.raises(ConversionError, match='reads torch files only'):
        write_original(tmp_path / 'x.safetensors', 'model', STATE)
    with pytest.raises(FileNotFoundError, match='no such folder'):
        write_original(tmp_path / 'none' / 'x.pth', 'model', STATE)


def test_tensors_are_mapped_not_read(tmp_path, monkeypatch):
    path = tmp_path / 'big.pth'
    torch.save({'state_dict': STATE}, path)
    seen = {}
    load = torch.load
    monkeypatch.setattr(torch, 'load', lambda *a, **k: seen.update(k) or load(*a, **k))
    assert torch.equal(torch_load(path)['state_dict']['a.weight'], STATE['a.weight'])
    assert seen == {'map_location': 'cpu', 'weights_only': True, 'mmap': True}
