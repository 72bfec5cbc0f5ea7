"""Trunks as values."""

import io

import numpy as np
import pytest
import torch

from fiber_mm.structures import ImageTrunk, TextTrunk


def image_trunk(batch=3):
    torch.manual_seed(0)
    return ImageTrunk(
        torch.randn(batch, 4, 5, 8), (torch.randn(batch, 2, 16, 20), torch.randn(batch, 4, 8, 10))
    )


def text_trunk(batch=3):
    torch.manual_seed(0)
    return TextTrunk(torch.randn(batch, 6, 8), torch.rand(batch, 6) > 0.5)


def tensors(trunk):
    for value in trunk:
        yield from value if isinstance(value, tuple) else (value,)


@pytest.mark.parametrize('make', [image_trunk, text_trunk])
@pytest.mark.parametrize('index', [0, -1, slice(1, 3), torch.tensor([2, 0, 0]), torch.tensor([2])])
def test_select(make, index):
    trunk = make()
    chosen = trunk.select(index)
    assert type(chosen) is type(trunk)
    rows = index
    if isinstance(index, int):
        rows = slice(index % 3, index % 3 + 1)
    for seen, whole in zip(tensors(chosen), tensors(trunk)):
        assert torch.equal(seen, whole[rows])


@pytest.mark.parametrize('index', [np.int64(2), np.array(2), torch.tensor(2)])
def test_select_one_by_a_number_of_any_kind(index):
    for seen, whole in zip(tensors(image_trunk().select(index)), tensors(image_trunk())):
        assert seen.shape == (1, *whole.shape[1:])


@pytest.mark.parametrize('index', [3, -4])
def test_select_outside_is_an_index_error(index):
    with pytest.raises(IndexError, match=f'sample {index} of a trunk that holds 3'):
        image_trunk().select(index)


@pytest.mark.parametrize('batch', [1, 3])
def test_repeat_keeps_the_copies_of_a_sample_together(batch):
    trunk = image_trunk(batch)
    repeated = trunk.repeat(2)
    for seen, whole in zip(tensors(repeated), tensors(trunk)):
        assert len(seen) == 2 * batch
        for i in range(batch):
            assert torch.equal(seen[2 * i], whole[i])
            assert torch.equal(seen[2 * i + 1], whole[i])


def test_repeating_a_single_sample_copies_nothing():
    trunk = image_trunk(1)
    assert trunk.repeat(5).tokens.untyped_storage().data_ptr() == trunk.tokens.data_ptr()


def test_to_changes_floating_point_tensors_only():
    trunk = text_trunk()
    for moved in (
        trunk.to(torch.float64),
        trunk.to(dtype=torch.float64),
        trunk.to('cpu', torch.float64),
        trunk.to('cpu', dtype=torch.float64),
    ):
        assert moved.tokens.dtype == torch.float64
        assert moved.mask.dtype == torch.bool
        assert torch.equal(moved.mask, trunk.mask)
    moved = image_trunk().to('meta')
    assert all(t.device.type == 'meta' for t in tensors(moved))


def test_detach():
    trunk = image_trunk().map(lambda t: t.requires_grad_())
    assert not any(t.requires_grad for t in tensors(trunk.detach()))


@pytest.mark.parametrize('make', [image_trunk, text_trunk])
def test_saved_and_read_again_without_pickled_classes(make):
    trunk, file = make(), io.BytesIO()
    torch.save(trunk.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    loaded = type(trunk).from_state_dict(state)
    assert type(loaded) is type(trunk)
    assert all(torch.equal(a, b) for a, b in zip(tensors(loaded), tensors(trunk), strict=True))


def test_a_state_of_another_trunk_is_refused():
    with pytest.raises(KeyError, match='ImageTrunk has the fields'):
        ImageTrunk.from_state_dict(text_trunk().state_dict())
