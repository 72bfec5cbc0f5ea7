"""Ranks by hand."""

import numpy as np
import torch

from fiber_mm.evaluation.functional.retrieval import ahead, best_ranks, recall_at, reranked


def test_the_best_of_several_right_ones_counts():
    scores = torch.tensor([[0.9, 0.5, 0.8, 0.1], [0.1, 0.2, 0.3, 0.4]])
    own = torch.tensor([[False, True, True, False], [True, False, False, False]])
    # First row: 0.8 stands behind 0.9; that 0.5 is behind too does not matter.
    assert best_ranks(scores, own).tolist() == [2, 4]


def test_right_ones_are_not_in_each_others_way():
    scores = torch.tensor([[0.9, 0.8, 0.7]])
    assert best_ranks(scores, torch.tensor([[True, True, False]])).tolist() == [1]


def test_ties_are_lost():
    scores = torch.tensor([[0.5, 0.5, 0.5, 0.1]])
    assert best_ranks(scores, torch.tensor([[False, True, False, False]])).tolist() == [3]
    constant = torch.zeros(4, 4)
    assert best_ranks(constant, torch.eye(4, dtype=torch.bool)).tolist() == [4] * 4
    # Two right ones that tie with each other and with a wrong one.
    own = torch.tensor([[True, True, False, False]])
    assert best_ranks(scores, own).tolist() == [2]


def test_scores_that_are_no_numbers_are_lost():
    nan = float('nan')
    own = torch.tensor([[True, False, False]])
    assert best_ranks(torch.tensor([[nan, 0.1, 0.2]]), own).tolist() == [3]
    assert best_ranks(torch.tensor([[0.9, nan, 0.2]]), own).tolist() == [2]


def test_columns():
    scores = torch.tensor([[0.9, 0.3], [0.9, 0.4], [0.1, 0.2]])
    own = torch.tensor([[True, False], [False, True], [False, False]])
    wanted = torch.tensor([[0.9, 0.4]])
    assert ahead(scores, wanted, own).sum(0).tolist() == [1, 0]


def test_reranked():
    scores = torch.tensor([[1.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    own = torch.tensor([[True, False], [False, False], [True, False]])
    before = torch.tensor([1, 7, 1])
    # Overtaken; not among the candidates; tied.
    assert reranked(scores, own, before).tolist() == [2, 7, 2]


def test_recall():
    assert recall_at(np.array([1, 2, 5, 11]), (1, 5, 10)) == {1: 0.25, 5: 0.75, 10: 0.75}
