import io

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fiber_mm.models.multimodal.queue import NegativeQueue

MEAN = torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1)
STD = torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1)


def sample(count, number=0.0, size=4):
    ids = torch.full((count, 3), int(number))
    pixels = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8)
    return torch.full((count, 5), number), torch.full((count, 5), -number), pixels, ids, ids == ids


def test_the_pointer_wraps_and_the_total_is_not_capped():
    queue = NegativeQueue(3, noise=False)
    for number in (1.0, 2.0):
        queue.put(*sample(2, number))
    assert (queue.pointer, queue.total, queue.filled) == (1, 4, 3)
    image, text = queue.features(torch.zeros(1, 5))
    assert image[:, 0].tolist() == [2.0, 1.0, 2.0]
    assert torch.equal(text, -image)
    inputs = queue.inputs(torch.tensor([1]), torch.tensor([2, 0]))
    assert inputs.input_ids.tolist() == [[2] * 3] * 2
    assert len(inputs.images) == 1


def test_the_scale_of_pixels_is_moved_to_the_device_once():
    with FakeTensorMode():
        queue = NegativeQueue(3, mean=torch.zeros(3, 1, 1), std=torch.ones(3, 1, 1))
        assert queue.pixels_of(torch.zeros(2, 3, 4, 4, device='cuda')).device.type == 'cuda'
        moved = queue.mean
        queue.pixels_of(torch.zeros(2, 3, 4, 4, device='cuda'))
    assert queue.mean is moved
    assert queue.mean.device.type == queue.std.device.type == 'cuda'


def test_unfilled_places_hold_the_same_noise_on_every_rank():
    like = torch.zeros(1, 200)
    torch.manual_seed(1)
    first, other = NegativeQueue(50).features(like)
    torch.manual_seed(2)
    again = NegativeQueue(50).features(like)
    assert torch.equal(first, again[0])
    assert first.shape == (50, 200)
    assert not torch.equal(first, other)
    assert abs(first.std() - 1) < 0.05  # not of length 1: as drawn
    queue = NegativeQueue(50, noise=False)
    assert queue.features(like)[0].shape == (0, 200)


def test_eight_bit_images_come_back_exactly():
    queue = NegativeQueue(300, mean=MEAN, std=STD)
    levels = torch.arange(256, dtype=torch.uint8)
    pixels = levels.view(16, 16).expand(2, 3, 16, 16)
    images = (pixels.float() - MEAN) / STD
    kept = queue.pixels_of(images)
    assert kept.dtype == torch.uint8
    assert torch.equal(kept, pixels)
    ids = torch.zeros(2, 3, dtype=torch.int64)
    queue.put(torch.zeros(2, 5), torch.zeros(2, 5), kept, ids, ids == 0)
    index = torch.tensor([1, 0])
    assert torch.equal(queue.inputs(index, index).images, images)


def test_what_is_read_does_not_change_when_the_queue_moves_on():
    queue = NegativeQueue(2, noise=False)
    queue.put(*sample(2, 1.0))
    inputs = queue.inputs(torch.tensor([0, 1]), torch.tensor([0, 1]))
    candidates = torch.cat([torch.zeros(1, 5), queue.features(torch.zeros(1, 5))[0]])
    before = candidates.clone(), inputs.input_ids.clone()
    queue.put(*sample(2, 7.0))
    assert torch.equal(candidates, before[0])
    assert torch.equal(inputs.input_ids, before[1])


@pytest.mark.parametrize('noise', [True, False])
@pytest.mark.parametrize('batches', [0, 1, 3])
def test_saved_and_loaded(noise, batches):
    queue = NegativeQueue(5, noise=noise)
    for number in range(batches):
        queue.put(*sample(2, float(number)))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    file.seek(0)
    again = NegativeQueue(5, noise=noise)
    again.load_state_dict(torch.load(file, weights_only=True))
    assert (again.pointer, again.total) == (queue.pointer, queue.total)
    for kept in (queue, again):
        kept.put(*sample(2, 9.0, 4)[:2], torch.zeros(2, 3, 4, 4, dtype=torch.uint8), *sample(2)[3:])
    like = torch.zeros(1, 5)
    for one, two in zip(queue.features(like), again.features(like)):
        assert torch.equal(one, two)
    index = torch.arange(queue.filled)
    for one, two in zip(queue.inputs(index, index), again.inputs(index, index)):
        assert torch.equal(one, two)


def test_a_saved_queue_takes_no_more_room_than_what_is_in_it():
    queue = NegativeQueue(1000, noise=False)
    queue.put(*sample(2, 1.0))
    file = io.BytesIO()
    torch.save(queue.state_dict(), file)
    assert file.tell() < 10_000


def test_bad_settings_and_batches():
    with pytest.raises(ValueError, match='at least one place'):
        NegativeQueue(0)
    with pytest.raises(ValueError, match='both mean and std'):
        NegativeQueue(4, mean=MEAN)
    queue = NegativeQueue(3)
    with pytest.raises(ValueError, match='batch of 4 samples.*queue of 3'):
        queue.put(*sample(4))
    queue.put(*sample(2))
    queue.check(torch.zeros(1, 3, 4, 4), torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r'pixels of shape \(3, 4, 4\).*\(3, 8, 8\)'):
        queue.check(torch.zeros(1, 3, 8, 8), torch.zeros(1, 3))
    with pytest.raises(ValueError, match='pad_to'):
        queue.check(torch.zeros(1, 3, 4, 4), torch.zeros(1, 7))
    with pytest.raises(ValueError, match='queue of 3 places, this model one of 4'):
        NegativeQueue(4).load_state_dict(queue.state_dict())
