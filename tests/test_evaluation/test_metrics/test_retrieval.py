import pytest
from mmengine.evaluator import Evaluator

from fiber_mm.evaluation.metrics import FiberRetrievalRecall


def test_recalls_by_protocol_and_direction():
    evaluator = Evaluator(FiberRetrievalRecall(topk=(1, 3)))
    ranks = {('itc', 'TR'): [1, 2], ('itc', 'IR'): [1, 4, 1, 4], ('itm', 'TR'): [3, 9]}
    samples = [
        dict(protocol=protocol, direction=direction, rank=rank)
        for (protocol, direction), values in ranks.items()
        for rank in values
    ]
    evaluator.process(samples[:3])
    evaluator.process(samples[3:])
    assert evaluator.evaluate(len(samples)) == {
        'itc/TR@1': 0.5, 'itc/TR@3': 1.0, 'itc/IR@1': 0.5, 'itc/IR@3': 0.5,
        'itc/mean_recall': 0.625, 'itm/TR@1': 0.0, 'itm/TR@3': 0.5, 'itm/mean_recall': 0.25,
    }  # fmt: skip


def test_bad_input():
    with pytest.raises(ValueError, match='topk must be one or more positive numbers, got .0,.'):
        FiberRetrievalRecall(topk=(0,))
    with pytest.raises(KeyError, match=r"no \['direction', 'rank'\].*FiberRetrievalTestLoop"):
        FiberRetrievalRecall(1).process(None, [dict(protocol='itc')])
