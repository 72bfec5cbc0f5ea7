"""Where programs run unless they are told."""

import mmengine.device.utils
import pytest
from mmengine.device import get_device

from fiber_mm.engine import FiberRunner, default_device, leave_mps

from . import toy_training as toy


@pytest.mark.parametrize(
    ('found', 'taken'), [('cpu', 'cpu'), ('cuda', 'cuda'), ('npu', 'npu'), ('mps', 'cpu')]
)
def test_all_but_mps_is_as_mmengine_finds_it(monkeypatch, found, taken):
    monkeypatch.setattr(mmengine.device.utils, 'DEVICE', found)
    assert default_device() == taken
    assert leave_mps() == (found == 'mps')
    assert get_device() == taken


def test_training_on_an_apple_machine_is_on_the_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(mmengine.device.utils, 'DEVICE', 'mps')
    runner = FiberRunner.from_cfg(toy.config(tmp_path, max_iters=2))
    runner.train()
    assert {p.device.type for p in runner.model.parameters()} == {'cpu'}
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert "running on the CPU: Apple's GPUs (mps) are not supported" in log
