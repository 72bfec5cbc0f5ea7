"""Two processes with half a batch each do what one does with the whole."""

import socket

import pytest
import torch
from test_engine.toy_training import in_a_process

from . import ranks


def in_two_processes(settings, folder):
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    started = [in_a_process(ranks.run, rank, 2, port, settings, str(folder)) for rank in range(2)]
    for process in started:
        process.join(300)
        assert process.exitcode == 0
    return [torch.load(folder / f'{rank}.pth') for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize(
    'settings',
    [
        {},
        dict(losses=('itm', 'mlm'), hard_negatives=False),
        dict(type='FiberRetrieval', losses=('itc', 'itm')),
    ],
    ids=['all', 'even', 'retrieval'],
)
def test_batch_negatives(settings, tmp_path):
    two = in_two_processes(settings, tmp_path)
    one = ranks.train(ranks.build(settings), slice(None), 0)
    for name, value in one['losses'].items():
        mean = (two[0]['losses'][name] + two[1]['losses'][name]) / 2
        torch.testing.assert_close(mean, value, rtol=1e-5, atol=1e-6, msg=name)
    assert two[0]['grads'].keys() == one['grads'].keys()
    for name, value in one['grads'].items():
        torch.testing.assert_close(two[0]['grads'][name], two[1]['grads'][name], rtol=0, atol=0)
        if name.endswith('self.key.bias'):
            continue  # truly 0: what there is is rounding
        error = (two[0]['grads'][name] - value).abs().max() / value.abs().max().clamp(min=1e-5)
        assert error < 1e-3, name


@pytest.mark.slow
def test_ranks_fill_the_same_queue(tmp_path):
    settings = dict(negatives='queue', queue=dict(size=8))
    two = in_two_processes(settings, tmp_path)
    one = ranks.build(settings)
    want = ranks.train(one, slice(None), 0)['queue']
    for rank in two:
        assert rank['queue'].keys() == want.keys()
        for name, value in want.items():
            torch.testing.assert_close(rank['queue'][name], value, rtol=1e-5, atol=1e-6, msg=name)
    assert (want['pointer'], want['total']) == (4, 12)
