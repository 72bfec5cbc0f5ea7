"""The command line of the benchmark, and its worker processes with a small model."""

import json

import pytest
import torch
from test_models.test_detectors.toy import CONFIG, merge
from tool_loader import load_tool

from fiber_mm.benchmark import KEYS, Spec, compare, measure
from fiber_mm.benchmark.measure import peak_gflops

TOY = merge(CONFIG, dict(backbone=dict(roberta=dict(max_position_embeddings=258))))


@pytest.fixture(scope='module')
def tool():
    return load_tool('benchmark')


def test_the_last_line_holds_the_promised_keys(tool, monkeypatch, capsys):
    asked = {}

    def measure(spec, runs, against_plain, threads, take_turns):
        asked.update(spec=spec, runs=runs, against_plain=against_plain, take_turns=take_turns)
        return dict.fromkeys((*KEYS, 'tflop', 'speedup'), 1)

    monkeypatch.setattr(tool, 'compare', measure)
    tool.main(['detect', '--precision', 'bf16', '--runs', '3', '--against', 'plain'])
    assert asked['spec'] == Spec('detect', 'bf16')
    assert asked['runs'] == 3
    assert asked['against_plain']
    assert asked['take_turns']
    rest, last = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert list(last) == [
        'name', 'precision', 'seconds', 'runs',
        'peak_memory_mb', 'threads', 'peak_gflops', 'fraction',
    ]  # fmt: skip
    assert rest == dict(tflop=1, speedup=1)
    tool.main(['pretrain_step_queue', '--against', 'plain', '--one-by-one'])
    assert asked['against_plain']
    assert not asked['take_turns']


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
    assert {'ratio_to_one_chunk', 'seconds_one_chunk', 'speedup', 'plain_seconds'} < set(report)
    assert report['peak_memory_mb'] > 100


class ScriptedWorker:
    """Answers with given seconds, as they come."""

    SECONDS = {
        False: dict(run=[4.0, 1.0, 2.0], one_chunk=[2.0, 0.25, 1.0], peak=[50.0, 100.0, 80.0]),
        True: dict(run=[12.0, 2.0, 8.0]),
    }

    def __init__(self, spec, threads):
        assert spec.precision == ('fp32' if spec.plain else 'bf16')
        self.answers = {name: iter(values) for name, values in self.SECONDS[spec.plain].items()}
        self.memory = 300.4 if spec.plain else 200.6
        self.about = dict(flops=5e10, threads=threads, beside=['one_chunk'])

    def ask(self, order):
        return next(self.answers[order])

    def stop(self):
        return self.memory


@pytest.mark.parametrize('take_turns', [True, False])
def test_what_is_made_of_the_measured_seconds(monkeypatch, take_turns):
    monkeypatch.setattr(measure, 'Worker', ScriptedWorker)
    spec = Spec('detect_chunks', 'bf16')
    report = compare(spec, runs=3, against_plain=True, threads=2, take_turns=take_turns)
    assert report == dict(
        name='detect_chunks', precision='bf16', runs=3, threads=2, device='cpu',
        seconds=2.0,  # the median
        tflop=0.05,
        peak_gflops=100.0,  # the best
        fraction=0.25,  # 5e10 operations in 2 s at 1e11 a second
        seconds_one_chunk=1.0,
        ratio_to_one_chunk=2.0,  # the median of 2, 4 and 2
        plain_seconds=8.0,
        speedup=3.0,  # the median of 3, 2 and 4
        peak_memory_mb=201,
        plain_peak_memory_mb=300,
    )  # fmt: skip


@pytest.mark.parametrize('take_turns', [True, False])
def test_order_of_the_runs(monkeypatch, take_turns):
    done = []

    class Worker(ScriptedWorker):
        def __init__(self, spec, threads):
            super().__init__(spec, threads)
            self.name = 'plain' if spec.plain else 'ours'
            done.append(f'start {self.name}')

        def ask(self, order):
            if order == 'run':
                done.append(f'run {self.name}')
            return super().ask(order)

        def stop(self):
            done.append(f'stop {self.name}')
            return super().stop()

    monkeypatch.setattr(measure, 'Worker', Worker)
    compare(Spec('detect_chunks', 'bf16'), 2, against_plain=True, take_turns=take_turns)
    if take_turns:
        assert done[:2] == ['start ours', 'start plain']
        assert done[2:6] == ['run ours', 'run plain'] * 2
        assert done[6:] == ['stop ours', 'stop plain']
    else:
        assert done == [
            f'{what} {who}' for who in ('ours', 'plain') for what in ('start', 'run', 'run', 'stop')
        ]


def test_the_device_that_is_measured_is_the_one_that_is_asked(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'synchronize', asked.append)
    monkeypatch.setattr(
        torch.cuda, 'max_memory_allocated', lambda device: asked.append(device) or 0
    )
    measure.seconds_of(lambda: None, 'cuda:1')
    measure.peak_memory_mb('cuda:1')
    assert asked == ['cuda:1'] * 3


def test_the_peak_for_bf16_is_that_of_the_faster_products(monkeypatch):
    seen = []
    monkeypatch.setattr(
        measure, 'seconds_of', lambda f, _: seen.append(f.args[0].dtype) or 1.0 / len(seen)
    )
    assert peak_gflops('bf16', 'cpu', repeats=1, side=32) == pytest.approx(2 * 32**3 * 4 / 1e9)
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2


@pytest.mark.slow
def test_a_process_that_dies_is_named():
    spec = Spec('detect', size=(64, 64), model=dict(TOY, type='Nothing'))
    with pytest.raises(RuntimeError, match='ended with exit code 1'):
        compare(spec, runs=1, against_plain=False)


@pytest.mark.parametrize('precision', ['fp32', 'bf16'])
def test_peak(precision):
    threads = torch.get_num_threads()
    assert 0.01 < peak_gflops(precision, 'cpu', repeats=1, side=256) < 1e4 * threads
