"""The command line of the benchmark, and its worker processes with a small model."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from test_models.test_detectors.toy import CONFIG, merge

from fiber_mm.benchmark import KEYS, Spec, compare
from fiber_mm.benchmark.measure import peak_gflops

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmark.py'
TOY = merge(CONFIG, dict(backbone=dict(roberta=dict(max_position_embeddings=258))))


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('benchmark_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_last_line_holds_the_promised_keys(tool, monkeypatch, capsys):
    asked = {}

    def measure(spec, runs, against_plain, threads):
        asked.update(spec=spec, runs=runs, against_plain=against_plain, threads=threads)
        return dict.fromkeys((*KEYS, 'tflop', 'speedup'), 1)

    monkeypatch.setattr(tool, 'compare', measure)
    tool.main(['detect', '--precision', 'bf16', '--runs', '3', '--against', 'plain'])
    assert asked['spec'] == Spec('detect', 'bf16')
    assert asked['runs'] == 3
    assert asked['against_plain']
    rest, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(last) == [
        'name', 'precision', 'seconds', 'runs',
        'peak_memory_mb', 'threads', 'peak_gflops', 'fraction',
    ]  # fmt: skip
    assert rest == dict(tflop=1, speedup=1)


@pytest.mark.parametrize(
    'argv', [['detect', '--runs', '0'], ['detects'], ['detect', '--precision', 'fp8']]
)
def test_bad_options(tool, argv):
    with pytest.raises(SystemExit):
        tool.parse_args(argv)


@pytest.mark.slow
def test_processes_take_turns():
    spec = Spec('detect_chunks', size=(64, 64), model=TOY)
    report = compare(spec, runs=2, against_plain=True, threads=1)
    assert set(KEYS) < set(report)
    assert report['runs'] == 2
    assert report['threads'] == 1
    assert report['ratio_to_one_chunk'] > 1
    assert report['speedup'] > 0
    assert report['peak_memory_mb'] > 100
    rate = report['tflop'] * 1e3 / report['seconds']
    assert report['fraction'] == pytest.approx(rate / report['peak_gflops'], rel=0.2, abs=1e-3)


@pytest.mark.slow
def test_a_process_that_dies_is_named():
    spec = Spec('detect', size=(64, 64), model=dict(TOY, type='Nothing'))
    with pytest.raises(RuntimeError, match='ended with exit code 1'):
        compare(spec, runs=1, against_plain=False)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_peak(precision):
    threads = torch.get_num_threads()
    assert 0.01 < peak_gflops(precision, 'cpu', repeats=1, side=256) < 1e4 * threads
