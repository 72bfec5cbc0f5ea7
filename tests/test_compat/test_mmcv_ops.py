"""mmcv.ops becomes importable, whatever was imported before; each case in a fresh process."""

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from fiber_mm.compat import mmcv_ops
from fiber_mm.compat.__main__ import find_script

ROOT = Path(__file__).resolve().parents[2]


def run(code: str, *args: str) -> str:
    """Output of a Python process that knows the package only by its path."""
    # The switch of this very environment (enable) must not help the case that is tested.
    code = (
        'import sys\n'
        'sys.meta_path[:] = [f for f in sys.meta_path'
        ' if not hasattr(f, "fiber_mm_stand_in")]\n'
        f'sys.path.insert(0, {str(ROOT)!r})\n' + code
    )
    done = subprocess.run(
        [sys.executable, '-c', code, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_finder_answers_for_one_name():
    assert mmcv_ops.StandInFinder.find_spec('mmcv._ext').origin == mmcv_ops.SOURCE
    assert mmcv_ops.StandInFinder.find_spec('mmcv.ops') is None
    assert mmcv_ops.StandInFinder.find_spec('_ext') is None


def test_install_is_last_and_once():
    finders = [f for f in sys.meta_path if hasattr(f, 'fiber_mm_stand_in')]
    mmcv_ops.install()
    assert [f for f in sys.meta_path if hasattr(f, 'fiber_mm_stand_in')] == finders
    assert len(finders) == 1


def test_compiled_module_wins(tmp_path, monkeypatch):
    """The finder comes after the one that reads the folders of the packages."""
    package = tmp_path / 'mmcv_like'
    package.mkdir()
    (package / '_ext.py').write_text('')
    found = next(
        spec
        for finder in sys.meta_path
        if (spec := finder.find_spec('mmcv._ext', [str(package)], None)) is not None
    )
    assert found.origin == str(package / '_ext.py')


def test_repair_placeholders(monkeypatch):
    import mmcv.ops

    module = ModuleType('mmdet.early_import')
    exec(
        'def batched_nms(*args, **kwargs):\n'
        "    raise RuntimeError('batched_nms requires mmcv to be compiled with ops. ')\n"
        'class DeformConv2d:\n'
        '    def __init__(self):\n'
        "        raise RuntimeError('DeformConv2d requires mmcv to be compiled with ops.')\n"
        'def bbox_overlaps(a, b):\n'
        "    return 'mmdet has one of its own'\n",
        module.__dict__,
    )
    for name in ('batched_nms', 'DeformConv2d', 'bbox_overlaps'):
        getattr(module, name).__module__ = module.__name__
    monkeypatch.setitem(sys.modules, module.__name__, module)
    repaired = mmcv_ops.repair_placeholders()
    assert repaired == ['mmdet.early_import.batched_nms', 'mmdet.early_import.DeformConv2d']
    assert module.batched_nms is mmcv.ops.batched_nms
    assert module.DeformConv2d is mmcv.ops.DeformConv2d
    assert module.bbox_overlaps(0, 0) == 'mmdet has one of its own'


def test_find_script(tmp_path):
    assert find_script('test').parts[-3:] == ('.mim', 'tools', 'test.py')
    script = tmp_path / 'mine.py'
    script.write_text('')
    assert find_script(str(script)) == script
    with pytest.raises(FileNotFoundError, match=r"no tool 'nothing'.*'train', 'test'"):
        find_script('nothing')
    with pytest.raises(FileNotFoundError, match=r'no script .*absent\.py'):
        find_script(str(tmp_path / 'absent.py'))


def test_enable_and_disable(tmp_path):
    path = Path(mmcv_ops.enable(str(tmp_path)))
    assert path.parent == tmp_path
    check = 'sum(hasattr(f, "fiber_mm_stand_in") for f in sys.meta_path)'
    out = run(f'import site; site.addsitedir({str(tmp_path)!r}); print({check})')
    assert out.strip() == '1'
    assert mmcv_ops.disable(str(tmp_path)) == str(path)
    assert not path.exists()
    out = run(f'import site; site.addsitedir({str(tmp_path)!r}); print({check})')
    assert out.strip() == '0'


@pytest.mark.slow
@pytest.mark.skipif(mmcv_ops.is_compiled(), reason='this mmcv has compiled operators')
class TestFreshProcess:
    def test_fiber_mm_first(self):
        out = run(
            'import fiber_mm, mmdet.models\n'
            'from mmdet.apis import DetInferencer\n'
            'from mmcv.ops import batched_nms\n'
            'from mmcv.cnn.bricks.transformer import MultiScaleDeformableAttention\n'
        )
        assert 'is not compiled' not in out
        assert 'Fail to import' not in out

    def test_after_a_failed_import_of_mmdet_models(self):
        """Placeholders of the failed import are gone, and detectors can be built."""
        run(
            'try:\n'
            '    import mmdet.models\n'
            '    raise SystemExit("mmdet.models needs no operators any more")\n'
            'except ModuleNotFoundError as error:\n'
            '    assert error.name == "mmcv._ext", error\n'
            'import fiber_mm\n'
            'import mmdet.models, mmcv.ops\n'
            'from mmdet.models.dense_heads import base_dense_head\n'
            'from mmdet.structures.mask import structures\n'
            'assert base_dense_head.batched_nms is mmcv.ops.batched_nms\n'
            'assert structures.roi_align is mmcv.ops.roi_align\n'
            'from mmdet.registry import MODELS\n'
            'assert MODELS.get("RetinaNet") is mmdet.models.RetinaNet\n'
        )

    def test_by_custom_imports_like_mmdet_train(self, tmp_path):
        """mmdet/tools/train.py: mmdet.utils first, then a config that imports fiber_mm."""
        config = tmp_path / 'config.py'
        config.write_text("custom_imports = dict(imports=['fiber_mm'])\n")
        run(
            'from mmdet.utils import setup_cache_size_limit_of_dynamo\n'
            'from mmengine.config import Config\n'
            'Config.fromfile(sys.argv[1])\n'
            'from mmdet.utils import register_all_modules\n'
            'register_all_modules()\n'
            'from mmdet.structures.mask import structures\n'
            'import mmcv.ops\n'
            'assert structures.roi_align is mmcv.ops.roi_align\n',
            str(config),
        )

    def test_tool_of_mmdet(self):
        """mmdet/tools/test.py imports mmdet.models before any config."""
        out = run(
            'import runpy\n'
            'sys.argv = ["fiber_mm.compat", "test", "--help"]\n'
            'runpy.run_module("fiber_mm.compat", run_name="__main__", alter_sys=True)\n'
        )
        assert 'MMDet test (and eval) a model' in out
