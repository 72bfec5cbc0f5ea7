"""Functions that several processes run together."""

import pytest
import torch
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from fiber_mm.engine.launch import available_cores, launch


def _rank_and_sum(value):
    torch.distributed.init_process_group('gloo')
    rank = torch.distributed.get_rank()
    total = torch.tensor(float(value + rank))
    torch.distributed.all_reduce(total)
    torch.distributed.destroy_process_group()
    return rank, total.item(), torch.get_num_threads()


def _fail():
    raise ValueError('on purpose')


def test_one_process_is_this_one():
    made = []
    assert launch(lambda: made.append(1) or 'done', processes=1) == 'done'
    assert made == [1]
    assert not torch.distributed.is_initialized()


@pytest.mark.slow
def test_two_processes_form_a_group():
    rank, total, threads = launch(_rank_and_sum, 5, processes=2)
    assert (rank, total) == (0, 11.0)
    assert threads == max(1, available_cores() // 2)


@pytest.mark.slow
@pytest.mark.usefixtures('quick_launch')
def test_a_failure_is_told():
    with pytest.raises(ChildFailedError, match='_fail|on purpose|exitcode'):
        launch(_fail, processes=2)
