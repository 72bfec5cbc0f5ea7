"""Writing atomically, reading safely, accounting for every key."""

from __future__ import annotations

import argparse
import errno
import io
import os
import pickle
import resource
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner import load_checkpoint as mmengine_load
from mmengine.runner.checkpoint import CheckpointLoader
from safetensors.torch import save_file
from torch import nn

from fiber_mm.engine import (
    CheckpointError,
    checkpoint,
    load_checkpoint_file,
    load_weights,
    write_atomic,
)

from . import toy_training as toy


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def evil(tmp_path) -> tuple[Path, Path]:
    """A checkpoint with code in it, and the file that would appear if the code ran."""
    sign = tmp_path / 'code_ran'
    file = tmp_path / 'evil.pth'
    torch.save(dict(state_dict=dict(weight=torch.zeros(1)), extra=Evil(sign)), file)
    return file, sign


# -- writing --


def test_write_atomic_replaces(tmp_path):
    path = tmp_path / 'new' / 'file.pth'
    write_atomic(path, b'one')
    write_atomic(path, b'two')
    assert path.read_bytes() == b'two'
    assert os.listdir(path.parent) == ['file.pth']


def test_full_disk_leaves_the_previous_file(tmp_path, monkeypatch):
    path = tmp_path / 'file.pth'
    write_atomic(path, b'previous')

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoint.os, 'fsync', full)
    with pytest.raises(CheckpointError, match=r'cannot write .*file\.pth: No space left.*MiB'):
        write_atomic(path, b'next')
    assert path.read_bytes() == b'previous'
    assert os.listdir(tmp_path) == ['file.pth'], 'the temporary file is gone'


def test_other_errors_pass_through_and_clean_up(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.os, 'replace', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_atomic(tmp_path / 'file.pth', b'next')
    assert os.listdir(tmp_path) == []


def test_training_on_a_full_disk_stops_with_an_error_and_resumes(tmp_path, monkeypatch):
    """The system itself refuses to write, by a limit on the size of files."""
    toy.train(tmp_path / 'whole', max_iters=12)
    cut = tmp_path / 'cut'
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    save = toy.FiberRunner.save_checkpoint

    def fill_disk(self, out_dir, filename, *args, **kwargs):
        if filename == 'iter_8.pth':
            size = (cut / 'iter_4.pth').stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        save(self, out_dir, filename, *args, **kwargs)

    monkeypatch.setattr(toy.FiberRunner, 'save_checkpoint', fill_disk)
    try:
        with pytest.raises(CheckpointError, match=r'cannot write .*iter_8\.pth'):
            toy.train(cut, max_iters=12)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    monkeypatch.undo()
    assert [path.name for path in cut.glob('*.pth*')] == ['iter_4.pth']
    assert toy.last_state(cut)['meta']['iter'] == 4
    toy.train(cut, max_iters=12, resume=True)
    toy.assert_same_training(toy.last_state(cut), toy.last_state(tmp_path / 'whole'))


# -- reading --


def test_reads_what_training_writes(tmp_path):
    """Log histories, NumPy scalars (a best score) and schedules come back by the safe loader."""
    content = dict(
        state_dict=dict(weight=torch.ones(2)),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([1.0, 2.0], [1, 1])),
            runtime_info=dict(best_score=np.float64(0.5), list=np.arange(3)),
        ),
    )
    # Pickling a history is what gives it the reference to its methods.
    content['message_hub']['log_scalars']['loss'].__getstate__()
    torch.save(content, tmp_path / 'a.pth')
    loaded = load_checkpoint_file(tmp_path / 'a.pth')
    history = loaded['message_hub']['log_scalars']['loss']
    assert history.mean() == 1.5
    assert loaded['message_hub']['runtime_info']['best_score'] == 0.5
    assert loaded['message_hub']['runtime_info']['list'].tolist() == [0, 1, 2]
    assert torch.equal(loaded['state_dict']['weight'], torch.ones(2))


def test_reads_safetensors(tmp_path):
    save_file(dict(weight=torch.arange(3.0)), tmp_path / 'a.safetensors')
    loaded = load_checkpoint_file(tmp_path / 'a.safetensors')
    assert loaded['state_dict']['weight'].tolist() == [0, 1, 2]


def test_foreign_pickle_is_refused_and_never_runs(evil):
    file, sign = evil
    with pytest.raises(CheckpointError, match=r'evil\.pth was refused.*\(pathlib'):
        load_checkpoint_file(file)
    assert not sign.exists()


def test_foreign_pickle_in_the_old_format(tmp_path):
    sign = tmp_path / 'code_ran'
    file = tmp_path / 'old.pth'
    torch.save(dict(a=Evil(sign)), file, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match='was refused'):
        load_checkpoint_file(file)
    (tmp_path / 'bare.pth').write_bytes(pickle.dumps(dict(a=Evil(sign))))
    with pytest.raises(CheckpointError, match=r'bare\.pth'):
        load_checkpoint_file(tmp_path / 'bare.pth')
    assert not sign.exists()


def test_attributes_of_other_objects_are_refused(tmp_path):
    """mmengine allows any getattr while loading; we allow what log histories need."""

    class Reach:
        def __reduce__(self):
            return getattr, (np.ndarray, 'tofile')

    torch.save(dict(a=Reach()), tmp_path / 'a.pth')
    with pytest.raises(CheckpointError, match=r'builtins\.getattr'):
        load_checkpoint_file(tmp_path / 'a.pth')


@pytest.mark.parametrize('kept', [0, 1, 100, 0.5, -1])
def test_truncated_file(tmp_path, kept):
    file = tmp_path / 'cut.pth'
    torch.save(dict(state_dict=dict(weight=torch.randn(1000))), file)
    data = file.read_bytes()
    file.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(CheckpointError, match=r'cut\.pth.*(empty|truncated)'):
        load_checkpoint_file(file)


def test_truncated_safetensors(tmp_path):
    file = tmp_path / 'cut.safetensors'
    save_file(dict(weight=torch.arange(300.0)), file)
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r'cut\.safetensors.*truncated'):
        load_checkpoint_file(file)


def test_not_a_checkpoint(tmp_path):
    (tmp_path / 'photo.jpg').write_bytes(b'\xff\xd8\xff\xe0' * 50)
    with pytest.raises(CheckpointError, match=r'photo\.jpg'):
        load_checkpoint_file(tmp_path / 'photo.jpg')
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='holds a list'):
        load_checkpoint_file(tmp_path / 'list.pth')
    with pytest.raises(FileNotFoundError, match=r'nothing\.pth'):
        load_checkpoint_file(tmp_path / 'nothing.pth')


def test_loading_of_the_host_is_safe(evil):
    """`init_cfg` and the inferencers load by mmengine's function."""
    file, sign = evil
    model = nn.Linear(1, 1, bias=False)
    with pytest.raises(CheckpointError):
        mmengine_load(model, str(file))
    assert not sign.exists()
    torch.save(dict(state_dict=model.state_dict()), file)
    mmengine_load(model, str(file), strict=True)


def test_the_other_schemes_of_the_host_are_safe(evil):
    """``s3://`` and so on hand a buffer, or a file, to one function; where it exists."""
    if not hasattr(mmengine_checkpoint, '_safe_torch_load'):
        pytest.skip('this mmengine reads by torch.load')
    file, sign = evil
    for source in (str(file), io.BytesIO(file.read_bytes())):
        with pytest.raises((CheckpointError, pickle.UnpicklingError)):
            mmengine_checkpoint._safe_torch_load(source, map_location='cpu')
    assert not sign.exists()


def test_a_checkpoint_of_the_original_is_to_be_converted(tmp_path):
    path = tmp_path / 'coarse.ckpt'
    content = dict(state_dict=dict(a=torch.zeros(1)), hyper_parameters=argparse.Namespace(lr=1))
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r'convert it first \(tools/convert_checkpoint\.py'):
        load_checkpoint_file(path)


def test_files_of_one_name_are_told_apart_by_their_address(tmp_path, monkeypatch):
    asked = []

    def download(url, path, **_):
        asked.append(url)
        torch.save(dict(state_dict=dict(a=torch.tensor(float(len(asked))))), path)

    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, 'download_url_to_file', download)

    def load(url):
        return float(CheckpointLoader.load_checkpoint(url)['state_dict']['a'])

    first, second = (f'https://example.org/{name}/resolve/main/model.pth' for name in 'ab')
    assert [load(first), load(second), load(first)] == [1, 2, 1]
    # Names with a hash in them, as torch's and mmdet's, are unique, wherever they come from.
    assert load('https://example.org/x-0123abcd.pth') == load('https://mirror/x-0123abcd.pth') == 3
    # A date is no hash. Without a process group every process is the first of its machine.
    monkeypatch.setenv('LOCAL_RANK', '1')
    assert load('https://example.org/x-20240801.pth') == 4
    assert load('https://mirror/x-20240801.pth') == 5
    assert mmengine_checkpoint.load_from_http(second)['state_dict']['a'] == 2


# -- keys --


def model() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))


def test_load_weights_takes_all_forms():
    source, target = model(), model()
    for form in (
        source.state_dict(),
        dict(state_dict=source.state_dict()),
        {f'module.{key}': value for key, value in source.state_dict().items()},
    ):
        nn.init.zeros_(target[0].weight)
        load_weights(target, form, 'a.pth')
        assert torch.equal(target[0].weight, source[0].weight)


def test_renamed_key_is_named():
    state = model().state_dict()
    state['0.wieght'] = state.pop('0.weight')
    with pytest.raises(
        CheckpointError, match=r'a\.pth.*1 unknown: 0\.wieght; 1 missing: 0\.weight'
    ):
        load_weights(model(), state, 'a.pth')
    with pytest.raises(CheckpointError, match='1 unknown'):
        load_weights(model(), state, 'a.pth', allow_missing=True)


def test_missing_keys_may_start_fresh_only_if_allowed():
    state = model().state_dict()
    del state['1.bias']
    with pytest.raises(CheckpointError, match=r'1 missing: 1\.bias'):
        load_weights(model(), state, 'a.pth')
    load_weights(model(), state, 'a.pth', allow_missing=True)


def test_other_shape():
    state = model().state_dict()
    state['0.weight'] = torch.zeros(4, 2)
    with pytest.raises(
        CheckpointError,
        match=r'a\.pth does not fit Sequential.*0\.weight: \(4, 2\), wanted \(3, 2\)',
    ):
        load_weights(model(), state, 'a.pth')


def test_original_container_points_to_the_converter():
    with pytest.raises(CheckpointError, match='convert_checkpoint'):
        load_weights(model(), dict(model=model().state_dict()), 'fiber.pth')
    with pytest.raises(CheckpointError, match='no weights'):
        load_weights(model(), dict(epoch=3), 'a.pth')


def test_resume_needs_a_training_checkpoint(tmp_path):
    runner = toy.train(tmp_path / 'a', max_iters=4)
    torch.save(dict(state_dict=runner.model.state_dict()), tmp_path / 'weights.pth')
    cfg = toy.config(tmp_path / 'b', resume=True)
    cfg.load_from = str(tmp_path / 'weights.pth')
    with pytest.raises(CheckpointError, match='cannot resume from .*weights.pth'):
        toy.FiberRunner.from_cfg(cfg).train()


def test_evaluation_wants_all_weights_even_of_a_config_that_could_train(tmp_path):
    """As mmdet's tools/test.py runs it: the loader for training stays in the config."""
    torch.save(dict(state_dict={'linear.weight': torch.zeros(1, 4)}), tmp_path / 'part.pth')
    cfg = toy.config(tmp_path, validate=True)
    cfg.update(
        test_dataloader=cfg.val_dataloader,
        test_evaluator=cfg.val_evaluator,
        test_cfg=dict(),
        load_from=str(tmp_path / 'part.pth'),
        experiment_name='toy_part',
    )
    with pytest.raises(CheckpointError, match=r'1 missing: linear\.bias'):
        toy.FiberRunner.from_cfg(cfg).test()
    cfg.train_cfg.max_iters = 1
    cfg.experiment_name = 'toy_part_trained'
    assert toy.FiberRunner.from_cfg(cfg).train() is not None, 'training may start from a part'


def test_load_strict_false_takes_what_fits(tmp_path):
    torch.save(dict(state_dict={'linear.weight': torch.ones(1, 4), 'other': torch.ones(1)}),
               tmp_path / 'w.pth')  # fmt: skip
    cfg = toy.config(tmp_path / 'a', max_iters=4)
    cfg.load_from = str(tmp_path / 'w.pth')
    with pytest.raises(CheckpointError, match='1 unknown: other'):
        toy.FiberRunner.from_cfg(cfg).train()
    cfg.load_strict = False
    cfg.custom_hooks = []
    runner = toy.FiberRunner.from_cfg(cfg)
    runner.load_checkpoint(cfg.load_from)
    assert torch.equal(runner.model.linear.weight, torch.ones(1, 4))
