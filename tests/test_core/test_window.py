"""Windows against loops written out."""

import pytest
import torch
import torch.nn.functional as F

from fiber_mm.core import window


@pytest.mark.parametrize(('height', 'width', 'size'), [(6, 9, 3), (4, 4, 4), (8, 2, 2), (5, 7, 1)])
def test_partition_takes_windows_row_by_row(height, width, size):
    x = torch.randn(2, height, width, 3)
    windows = window.partition(x, size)
    wanted = [
        x[b, top : top + size, left : left + size].reshape(size * size, 3)
        for b in range(2)
        for top in range(0, height, size)
        for left in range(0, width, size)
    ]
    assert torch.equal(windows, torch.stack(wanted))
    assert torch.equal(window.reverse(windows, size, height, width), x)


def test_partition_reads_views_that_are_not_contiguous():
    x = torch.randn(1, 9, 6, 4).transpose(1, 2)
    assert torch.equal(window.partition(x, 3), window.partition(x.contiguous(), 3))


@pytest.mark.parametrize(('height', 'width'), [(5, 7), (6, 4), (1, 1), (6, 6)])
def test_padding_is_zero_and_at_the_right_and_bottom(height, width):
    x = torch.randn(2, height, width, 3)
    padded = window.pad_to_multiple(x, 3)
    assert padded.shape[1] % 3 == 0
    assert padded.shape[2] % 3 == 0
    assert padded.shape[1] - height < 3
    assert padded.shape[2] - width < 3
    assert torch.equal(padded[:, :height, :width], x)
    assert padded.sum().isclose(x.sum(), atol=1e-4)
    assert (padded is x) == (height % 3 == 0 and width % 3 == 0)


@pytest.mark.parametrize('size', [1, 2, 3, 5])
def test_relative_position_index_against_a_loop(size):
    index = window.relative_position_index(size)
    places = [(y, x) for y in range(size) for x in range(size)]
    side = 2 * size - 1
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            assert index[i, j] == (y - v + size - 1) * side + (x - u + size - 1)
    assert index.unique().tolist() == list(range(side * side))


@pytest.mark.parametrize(
    ('height', 'width', 'size', 'shift'), [(6, 9, 3, 1), (4, 8, 4, 2), (4, 4, 4, 2), (10, 5, 5, 2)]
)
def test_shift_mask_hides_what_was_not_beside_before_the_roll(height, width, size, shift):
    # Regions as in the original: three slices per axis, numbered.
    regions = torch.zeros(height, width)
    slices = (slice(0, -size), slice(-size, -shift), slice(-shift, None))
    number = 0
    for rows in slices:
        for cols in slices:
            regions[rows, cols] = number
            number += 1
    mask = window.shift_mask(height, width, size, shift, torch.device('cpu'))
    count = 0
    for top in range(0, height, size):
        for left in range(0, width, size):
            region = regions[top : top + size, left : left + size].flatten()
            for i in range(size * size):
                for j in range(size * size):
                    wanted = 0.0 if region[i] == region[j] else -100.0
                    assert mask[count, i, j] == wanted
            count += 1
    assert len(mask) == count


def windows_by_steps(x, size, shift, fill):
    """Pads, rolls and cuts one (H, W, C) map; every window with its mask."""
    height, width, channels = x.shape
    rows, cols = -(-height // size) * size, -(-width // size) * size
    padded = fill.expand(rows, cols, channels).clone()
    padded[:height, :width] = x
    padded = padded.roll((-shift, -shift), (0, 1))
    masks = torch.zeros(rows * cols // size**2, size**2, size**2)
    if shift:
        masks = window.shift_mask(rows, cols, size, shift, x.device)
    return list(zip(window.partition(padded[None], size), masks))


@pytest.mark.parametrize('shift', [0, 1, 2])
@pytest.mark.parametrize(
    ('height', 'width'), [(6, 9), (5, 7), (3, 3), (2, 2), (1, 7), (9, 2), (1, 1)]
)
def test_a_plan_gives_the_windows_of_padding_rolling_and_cutting(height, width, shift):
    torch.manual_seed(0)
    size, batch = 3, 2
    x, fill = torch.randn(batch, height, width, 4), torch.randn(4)
    plan = window.plan_windows(batch, height, width, size, shift, x.device)
    flat = x.reshape(-1, 4)
    windows = window.to_windows(flat, fill, plan).view(-1, size**2, 4)
    assert torch.equal(window.from_windows(windows.reshape(-1, 4), plan), flat)
    for start, stop in ((0, len(plan.index)), (4, 11), (len(plan.index) - 7, len(plan.index))):
        piece = window.gather_windows(flat, fill, plan, max(start, 0), stop)
        assert torch.equal(piece, windows.view(-1, 4)[max(start, 0) : stop])

    seen = []
    for part, (_, mask) in zip(windows.split([count for count, _ in plan.groups]), plan.groups):
        mask = torch.zeros(size**2, size**2) if mask is None else mask
        seen += [(w, mask) for w in part]
    wanted = [pair for image in x for pair in windows_by_steps(image, size, shift, fill)]
    assert len(seen) == len(wanted)
    for got, mask in seen:  # in whatever order
        twins = [m for w, m in wanted if torch.equal(w, got)]
        assert twins
        assert any(torch.equal(m, mask) for m in twins)
    assert len({mask.data_ptr() for _, mask in plan.groups if mask is not None}) <= 3


@pytest.mark.parametrize('shift', [0, 1])
def test_gradients_of_the_rearrangement(shift):
    torch.manual_seed(0)
    plan = window.plan_windows(2, 4, 5, 3, shift, torch.device('cpu'))
    x = torch.randn(40, 2, dtype=torch.float64, requires_grad=True)
    fill = torch.randn(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, fill: window.to_windows(x, fill, plan), (x, fill))
    windows = torch.randn(len(plan.index), 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: window.from_windows(w, plan), (windows,))


def test_resizing_a_bias_table():
    table = torch.randn(25, 4)  # windows of side 3
    assert torch.equal(window.resize_bias_table(table, 3), table)
    larger = window.resize_bias_table(table, 5)
    assert larger.shape == (81, 4)
    wanted = F.interpolate(table.t().reshape(1, 4, 5, 5), size=(9, 9), mode='bicubic')
    assert torch.equal(larger, wanted.reshape(4, 81).t())
    assert window.resize_bias_table(table.double(), 4).dtype == torch.float64


@pytest.mark.parametrize('rows', [24, 16])
def test_a_table_of_no_square_window_is_refused(rows):
    with pytest.raises(ValueError, match=f'{rows} rows'):
        window.resize_bias_table(torch.zeros(rows, 2), 3)
