"""Numbers of the stand-ins, through mmcv's own Python functions, against formulas."""

import importlib.util
import sys
from types import ModuleType

import mmcv.ops
import pytest
import torch
import torchvision
from torch import Tensor

from fiber_mm.compat import mmcv_ops


@pytest.fixture(scope='module')
def stand_in() -> ModuleType:
    """The module of stand-ins, also where compiled operators hide it."""
    spec = importlib.util.spec_from_file_location('stand_in_ext', mmcv_ops.SOURCE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def use_stand_in(stand_in: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let mmcv.ops call the stand-ins in this test."""
    for name, module in list(sys.modules.items()):
        if name.startswith('mmcv.ops.') and hasattr(module, 'ext_module'):
            monkeypatch.setattr(module, 'ext_module', stand_in)


def slow_nms(boxes: Tensor, scores: Tensor, threshold: float, offset: int) -> list[int]:
    """Non-maximum suppression box by box."""
    kept: list[int] = []
    for i in scores.argsort(descending=True, stable=True).tolist():
        x1, y1, x2, y2 = boxes[i].tolist()
        for j in kept:
            u1, v1, u2, v2 = boxes[j].tolist()
            w = max(min(x2, u2) - max(x1, u1) + offset, 0)
            h = max(min(y2, v2) - max(y1, v1) + offset, 0)
            areas = (x2 - x1 + offset) * (y2 - y1 + offset) + (u2 - u1 + offset) * (
                v2 - v1 + offset
            )
            if w * h / (areas - w * h) > threshold:
                break
        else:
            kept.append(i)
    return kept


def random_boxes(count: int, size: float = 60) -> Tensor:
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + 5 + torch.rand(count, 2) * size / 2], dim=1)


@pytest.mark.usefixtures('use_stand_in')
class TestNms:
    @pytest.mark.parametrize('offset', [0, 1])
    def test_equals_slow_form(self, offset):
        boxes, scores = random_boxes(80), torch.rand(80)
        dets, kept = mmcv.ops.nms(boxes, scores, 0.4, offset=offset)
        assert kept.tolist() == slow_nms(boxes, scores, 0.4, offset)
        assert torch.equal(dets, torch.cat([boxes[kept], scores[kept, None]], dim=1))

    def test_offset_counts_inclusive_corners(self):
        # 5 x 10 of 6 x 10 pixels overlap if corners are inclusive, 4 x 9 of 5 x 9 if not.
        boxes = torch.tensor([[0.0, 0, 5, 9], [0, 0, 4, 9]])
        scores = torch.tensor([0.9, 0.8])
        assert mmcv.ops.nms(boxes, scores, 0.81, offset=1)[1].tolist() == [0]
        assert mmcv.ops.nms(boxes, scores, 0.81, offset=0)[1].tolist() == [0, 1]

    @pytest.mark.parametrize('offset', [0, 1])
    @pytest.mark.parametrize('tenths', [3, 6, 7, 9])
    def test_overlap_at_threshold_stays(self, offset, tenths):
        boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, tenths]])
        boxes[:, 2:] -= offset
        _, kept = mmcv.ops.nms(boxes, torch.tensor([0.9, 0.8]), tenths / 10, offset=offset)
        assert kept.tolist() == [0, 1]

    def test_batched_keeps_classes_apart(self):
        boxes, scores = random_boxes(60), torch.rand(60)
        labels = torch.randint(4, (60,))
        cfg = {'type': 'nms', 'iou_threshold': 0.5, 'offset': 1}
        _, kept = mmcv.ops.batched_nms(boxes, scores, labels, cfg)
        wanted = []
        for label in range(4):
            rows = (labels == label).nonzero()[:, 0]
            wanted += [rows[i] for i in slow_nms(boxes[rows], scores[rows], 0.5, 1)]
        wanted = torch.stack(wanted)
        assert kept.tolist() == wanted[scores[wanted].argsort(descending=True)].tolist()

    def test_empty(self):
        dets, kept = mmcv.ops.nms(torch.zeros(0, 4), torch.zeros(0), 0.5, offset=1)
        assert dets.shape == (0, 5)
        assert kept.shape == (0,)


def check_gradients(function, inputs: list[Tensor], reference, atol: float = 1e-5) -> None:
    """Compare a result and its gradients with those of a reference."""
    ours = [t.clone().requires_grad_() for t in inputs]
    theirs = [t.clone().requires_grad_() for t in inputs]
    out, wanted = function(*ours), reference(*theirs)
    torch.testing.assert_close(out, wanted, atol=atol, rtol=1e-5)
    weights = torch.randn_like(wanted)
    grads = torch.autograd.grad((out * weights).sum(), ours)
    wanted_grads = torch.autograd.grad((wanted * weights).sum(), theirs)
    for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(grad, wanted_grad, atol=atol, rtol=1e-4)


@pytest.mark.usefixtures('use_stand_in')
class TestFocalLoss:
    @pytest.mark.parametrize('weighted', [False, True])
    def test_sigmoid(self, weighted):
        target = torch.tensor([0, 3, 2, 5, 1, 5])  # 5 is background
        class_weight = torch.rand(5) if weighted else None

        def reference(logits: Tensor) -> Tensor:
            onehot = torch.nn.functional.one_hot(target, 6)[:, :5].float()
            loss = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha=0.3, gamma=2.5)
            if weighted:
                loss = loss * torch.cat([class_weight, torch.ones(1)])[target][:, None]
            return loss

        def ours(logits: Tensor) -> Tensor:
            return mmcv.ops.sigmoid_focal_loss(logits, target, 2.5, 0.3, class_weight, 'none')

        check_gradients(ours, [torch.randn(6, 5) * 3], reference)

    def test_softmax(self):
        target = torch.tensor([0, 3, 2, 1])

        def reference(logits: Tensor) -> Tensor:
            prob = logits.softmax(dim=1)[torch.arange(4), target]
            return (-0.3 * (1 - prob) ** 2.5 * prob.log()).mean()

        def ours(logits: Tensor) -> Tensor:
            return mmcv.ops.softmax_focal_loss(logits, target, 2.5, 0.3, None, 'mean')

        check_gradients(ours, [torch.randn(4, 5)], reference)

    def test_extreme_logits_stay_finite(self):
        logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
        loss = mmcv.ops.sigmoid_focal_loss(logits, torch.tensor([1]), 2.0, 0.25, None, 'sum')
        loss.backward()
        assert torch.isfinite(loss)
        assert torch.isfinite(logits.grad).all()


@pytest.mark.usefixtures('use_stand_in')
class TestRoiAlign:
    @pytest.mark.parametrize('aligned', [False, True])
    def test_average(self, aligned):
        rois = torch.cat([torch.tensor([[0.0], [1], [1]]), random_boxes(3, 20)], dim=1)

        def reference(maps: Tensor) -> Tensor:
            return torchvision.ops.roi_align(maps, rois, (3, 2), 0.5, 2, aligned)

        def ours(maps: Tensor) -> Tensor:
            return mmcv.ops.roi_align(maps, rois, (3, 2), 0.5, 2, 'avg', aligned)

        check_gradients(ours, [torch.randn(2, 3, 12, 14)], reference)

    def test_maximum_is_refused_by_name(self):
        with pytest.raises(NotImplementedError, match="'roi_align'.*pool_mode='max'"):
            mmcv.ops.roi_align(torch.rand(1, 1, 8, 8), torch.zeros(1, 5), 2, 1.0, 0, 'max', True)


def bilinear(plane: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """Value of (C, H, W) at one point, zero outside of the map."""
    height, width = plane.shape[-2:]
    y0, x0 = int(y.floor()), int(x.floor())
    value = plane.new_zeros(plane.size(0))
    for yy, xx in ((y0, x0), (y0, x0 + 1), (y0 + 1, x0), (y0 + 1, x0 + 1)):
        if 0 <= yy < height and 0 <= xx < width:
            value = value + plane[:, yy, xx] * (1 - (y - yy).abs()) * (1 - (x - xx).abs())
    return value


def slow_deform_conv(
    x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor, stride: int, padding: int
) -> Tensor:
    """Modulated deformable convolution, tap by tap; one group."""
    batch, (kh, kw) = x.size(0), weight.shape[2:]
    height, width = offset.shape[2:]
    rows = []
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                value = x.new_zeros(weight.size(0))
                for k in range(kh * kw):
                    y = i * stride - padding + k // kw + offset[b, 2 * k, i, j]
                    z = j * stride - padding + k % kw + offset[b, 2 * k + 1, i, j]
                    tap = bilinear(x[b], y, z) * mask[b, k, i, j]
                    value = value + weight[:, :, k // kw, k % kw] @ tap
                rows.append(value)
    return torch.stack(rows).view(batch, height, width, -1).permute(0, 3, 1, 2)


def deform_inputs(batch: int = 2, size: tuple[int, int] = (3, 4)) -> list[Tensor]:
    """Input 5 x 7, stride 2, padding 1: a map of 3 x 4."""
    return [
        torch.randn(batch, 3, 5, 7),
        torch.randn(batch, 18, *size),
        torch.rand(batch, 9, *size),
        torch.randn(4, 3, 3, 3),
    ]


@pytest.mark.usefixtures('use_stand_in')
class TestDeformConv:
    def test_modulated(self):
        def reference(*tensors: Tensor) -> Tensor:
            return slow_deform_conv(*tensors, stride=2, padding=1)

        def ours(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
            return mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 2, 1)

        check_gradients(ours, deform_inputs(), reference, atol=1e-4)

    def test_module_with_bias_and_groups(self):
        module = mmcv.ops.ModulatedDeformConv2d(4, 6, 3, padding=1, groups=2, deform_groups=2)
        torch.nn.init.normal_(module.bias)
        x, offset = torch.randn(2, 4, 5, 6), torch.randn(2, 36, 5, 6)
        mask = torch.rand(2, 18, 5, 6)
        out = module(x, offset, mask)
        wanted = torchvision.ops.deform_conv2d(
            x, offset, module.weight, module.bias, padding=1, mask=mask
        )
        torch.testing.assert_close(out, wanted)
        grads = torch.autograd.grad(out.square().sum(), [module.weight, module.bias])
        wanted_grads = torch.autograd.grad(wanted.square().sum(), [module.weight, module.bias])
        for grad, wanted_grad in zip(grads, wanted_grads, strict=True):
            torch.testing.assert_close(grad, wanted_grad, atol=1e-4, rtol=1e-4)

    def test_larger_offset_maps_are_read_from_their_start(self):
        x, _, _, weight = deform_inputs()
        _, offset, mask, _ = deform_inputs(size=(6, 8))
        out = mmcv.ops.modulated_deform_conv2d(x, offset, mask, weight, None, 2, 1)
        wanted = slow_deform_conv(
            x,
            offset.flatten(1)[:, : 18 * 12].view(2, 18, 3, 4),
            mask.flatten(1)[:, : 9 * 12].view(2, 9, 3, 4),
            weight,
            2,
            1,
        )
        torch.testing.assert_close(out, wanted, atol=1e-4, rtol=1e-4)

    def test_too_few_offsets(self):
        x, offset, mask, weight = deform_inputs()
        with pytest.raises(ValueError, match=r'offset is \(2, 10, 3, 4\).*\(18, 3, 4\)'):
            mmcv.ops.modulated_deform_conv2d(x, offset[:, :10], mask, weight, None, 2, 1)

    def test_bfloat16(self):
        inputs = deform_inputs()
        out = mmcv.ops.modulated_deform_conv2d(*(t.bfloat16() for t in inputs), None, 2, 1)
        assert out.dtype == torch.bfloat16
        wanted = mmcv.ops.modulated_deform_conv2d(*inputs, None, 2, 1)
        assert (out.float() - wanted).norm() < 0.05 * wanted.norm()

    def test_unmodulated(self):
        x, offset, mask, weight = deform_inputs()

        def reference(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return slow_deform_conv(x, offset, torch.ones_like(mask), weight, 2, 1)

        def ours(x: Tensor, offset: Tensor, weight: Tensor) -> Tensor:
            return mmcv.ops.deform_conv2d(x, offset, weight, 2, 1)

        check_gradients(ours, [x, offset, weight], reference, atol=1e-4)


class TestRefusal:
    def test_by_name(self, stand_in):
        assert hasattr(stand_in, 'psamask_forward')
        with pytest.raises(NotImplementedError, match=r"'psamask_forward'.*Install an mmcv"):
            stand_in.psamask_forward(torch.zeros(1))

    @pytest.mark.usefixtures('use_stand_in')
    def test_through_mmcv(self):
        with pytest.raises(NotImplementedError, match="'softnms'"):
            mmcv.ops.soft_nms(random_boxes(3), torch.rand(3))

    def test_special_names_are_absent(self, stand_in):
        assert not hasattr(stand_in, '__path__')

    def test_environment_report(self, stand_in):
        assert 'not compiled' in stand_in.get_compiler_version()
        assert 'not' in stand_in.get_compiling_cuda_version()


@pytest.mark.skipif(not mmcv_ops.is_compiled(), reason='this mmcv has no compiled operators')
class TestAgainstCompiled:
    """Where both are there, both give the same numbers."""

    def results(self) -> list[Tensor]:
        torch.manual_seed(1)
        boxes, scores, labels = random_boxes(200), torch.rand(200), torch.randint(5, (200,))
        cfg = {'type': 'nms', 'iou_threshold': 0.5, 'offset': 1}
        results = list(mmcv.ops.batched_nms(boxes, scores, labels, cfg))
        inputs = [t.requires_grad_() for t in deform_inputs()]
        out = mmcv.ops.modulated_deform_conv2d(*inputs, None, 2, 1)
        results += [out, *torch.autograd.grad(out.square().sum(), inputs)]
        maps = torch.randn(1, 3, 12, 14, requires_grad=True)
        rois = torch.cat([torch.zeros(3, 1), random_boxes(3, 20)], dim=1)
        out = mmcv.ops.roi_align(maps, rois, 3, 0.5, 2, 'avg', True)
        return [*results, out, *torch.autograd.grad(out.square().sum(), maps)]

    def test_same_numbers(self, request):
        compiled = self.results()
        request.getfixturevalue('use_stand_in')
        for ours, wanted in zip(self.results(), compiled, strict=True):
            torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=1e-4)
