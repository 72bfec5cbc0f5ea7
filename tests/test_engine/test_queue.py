"""The queue of negatives in checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from mmengine.logging import MMLogger

from fiber_mm.engine import FiberQueueHook
from fiber_mm.models.multimodal.queue import NegativeQueue


def runner(queue, resume=True):
    return SimpleNamespace(
        model=SimpleNamespace(queue=queue),
        _resume=resume,
        logger=MMLogger.get_current_instance(),
    )


def filled():
    queue = NegativeQueue(4, noise=False)
    ids = torch.ones(2, 3, dtype=torch.int64)
    queue.put(torch.ones(2, 5), torch.ones(2, 5), torch.ones(2, 3, 4, 4), ids, ids == 1)
    return queue


def test_a_resumed_run_has_its_queue():
    checkpoint, other = {}, NegativeQueue(4, noise=False)
    hook = FiberQueueHook()
    hook.before_save_checkpoint(runner(filled()), checkpoint)
    hook.after_load_checkpoint(runner(other, resume=False), checkpoint)
    assert other.total == 0, 'weights alone were asked for'
    hook.after_load_checkpoint(runner(other), checkpoint)
    assert (other.total, other.pointer) == (2, 2)
    assert other.features(torch.zeros(1, 5))[0].sum() == 10


def test_a_checkpoint_without_a_queue():
    queue = NegativeQueue(4)
    FiberQueueHook().after_load_checkpoint(runner(queue), {})
    assert queue.total == 0


def test_a_model_without_a_queue():
    with pytest.raises(ValueError, match="negatives='queue'"):
        FiberQueueHook().before_save_checkpoint(runner(None), {})


def test_a_queue_that_is_not_saved():
    checkpoint = {}
    FiberQueueHook(save=False).before_save_checkpoint(runner(filled()), checkpoint)
    assert checkpoint == {}
