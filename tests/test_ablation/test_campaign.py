import pytest
import torch
from mmengine.registry import init_default_scope
from test_engine import toy_training

from fiber_mm.ablation import campaign, run_campaign, write_report
from fiber_mm.ablation.campaign import CampaignError, Job, Progress, jobs_of
from fiber_mm.ablation.configs import coarse_base, coarse_config
from fiber_mm.ablation.runs import scores_of, weights_of
from fiber_mm.ablation.settings import read_json, write_json
from fiber_mm.ablation.variants import VARIANTS, coarse_name
from fiber_mm.engine import FiberRunner
from fiber_mm.registry import MODELS


def quiet(text):
    """No progress."""


def test_coarse_runs_are_shared_and_come_first(toy):
    settings = toy(variants=('scratch', 'coarse', 'gates_shut', 'no_mlm'), seeds=(0, 1))
    jobs = jobs_of(settings)
    assert jobs[:6] == [
        Job('fine', 'scratch', 0),
        Job('coarse', 'coarse', 0),
        Job('fine', 'coarse', 0),
        Job('fine', 'gates_shut', 0),
        Job('coarse', 'no_mlm', 0),
        Job('fine', 'no_mlm', 0),
    ]
    assert [(job.stage, job.name) for job in jobs[6:]] == [(j.stage, j.name) for j in jobs[:6]]
    # Finished ones are not repeated; a fine run of the shared checkpoint needs no new one.
    coarse = dict(coarse_settings=VARIANTS['coarse'].coarse_settings)
    write_json(settings.coarse_result('coarse', 0), coarse)
    write_json(settings.result('coarse', 0), dict(variant=VARIANTS['coarse'].definition()))
    assert jobs_of(settings)[:2] == [Job('fine', 'scratch', 0), Job('fine', 'gates_shut', 0)]
    # A checkpoint of other settings is not taken for it.
    coarse['coarse_settings']['gates_fixed'] = True
    write_json(settings.coarse_result('coarse', 0), coarse)
    with pytest.raises(CampaignError, match="variant 'coarse' was something else"):
        jobs_of(settings)


def test_remaining_time():
    lines = []
    jobs = [Job('coarse', 'coarse', 0), Job('fine', 'coarse', 0), Job('fine', 'gates_shut', 0)]
    progress = Progress(jobs, lines.append)
    progress.begin(0)
    assert lines[-1].endswith('remaining not known yet')
    progress.finish(0, 100)
    progress.finish(1, 60)
    progress.begin(2)
    assert 'run 3 of 3: fine stage of gates_shut, seed 0' in lines[-1]
    assert lines[-1].endswith('remaining about 0:01:00')


def test_other_settings_are_refused(toy, monkeypatch):
    monkeypatch.setattr(campaign, '_do', lambda *args: None)
    run_campaign(toy(variants=('scratch',), seeds=(0,)), quiet)
    # Further variants and seeds are welcome.
    run_campaign(toy(variants=('scratch', 'coarse'), seeds=(0, 5)), quiet)
    with pytest.raises(CampaignError, match='fine_steps 2 there, 3 wanted.*another --work-dir'):
        run_campaign(toy(fine_steps=3), quiet)
    options = {**toy().coarse_options, 'optim_wrapper.optimizer.lr': 0.1}
    with pytest.raises(CampaignError, match='coarse_config'):
        run_campaign(toy(coarse_options=options), quiet)


def test_data_of_other_settings_are_refused(toy):
    options = {**toy().cfg_options, 'shapes': dict(splits=dict(val=3), seed=0, image_size=128)}
    with pytest.raises(FileExistsError, match='choose another --data'):
        run_campaign(toy(cfg_options=options), quiet)


def killed(settings):
    """Runs in another process, until it is killed."""
    run_campaign(settings, quiet)


@pytest.mark.slow
def test_a_campaign_from_end_to_end(toy):
    settings = toy(variants=('coarse', 'gates_shut'), seeds=(0, 1))
    lines = []
    run_campaign(settings, lines.append)
    assert [line for line in lines if 'run 6 of 6' in line]
    found = {}
    for name in settings.variants:
        for seed in settings.seeds:
            found[name, seed] = read_json(settings.result(name, seed))
            assert found[name, seed]['iterations'] == 2
            assert set(found[name, seed]['scores']) == set(scores_of(name))
            assert all(0 <= value <= 1 for value in found[name, seed]['scores'].values())
    assert found['gates_shut', 0]['gates'] == [0.0] * 4
    assert any(found['coarse', 0]['gates'])
    # The same checkpoint, so the same retrieval; another seed, another checkpoint.
    retrieval = [key for key in scores_of('coarse') if '/' in key]
    assert len(retrieval) == 4
    for key in retrieval:
        assert found['coarse', 0]['scores'][key] == found['gates_shut', 0]['scores'][key]
    coarse = [read_json(settings.coarse_result('coarse', seed)) for seed in (0, 1)]
    assert coarse[0]['gates'] != coarse[1]['gates']
    text = write_report(settings).read_text()
    assert '**Finished:** 4 of 4 runs.' in text
    assert '| missing |' not in text

    # Nothing is left to do; where a file is gone, its run is, and is missing in the document.
    lines.clear()
    run_campaign(settings, lines.append)
    assert lines[0] == 'ablations: 0 runs to do'
    settings.result('gates_shut', 1).unlink()
    assert jobs_of(settings) == [Job('fine', 'gates_shut', 1)]
    assert '**Finished:** 3 of 4 runs; ' in write_report(settings).read_text()


@pytest.mark.slow
@pytest.mark.usefixtures('one_thread')
def test_a_killed_training_goes_on(toy, tmp_path):
    options = {**toy().coarse_options, 'default_hooks.checkpoint.interval': 1}
    chosen = dict(variants=('coarse',), seeds=(0,), coarse_steps=6, coarse_options=options)
    whole = toy(**chosen, work_dir=tmp_path / 'whole')
    run_campaign(whole, quiet)

    cut = toy(**chosen, work_dir=tmp_path / 'cut')
    folder = cut.coarse_dir('coarse', 0)
    process = toy_training.in_a_process(killed, cut)
    toy_training.kill_when(process, lambda: (folder / 'iter_2.pth').exists())
    assert not weights_of(folder).exists(), 'the run was meant to be killed before its end'
    run_campaign(cut, quiet)

    results = [
        [read_json(path) for path in (s.coarse_result('coarse', 0), s.result('coarse', 0))]
        for s in (whole, cut)
    ]
    assert results[1][0]['seconds_per_step'] is None
    for first, second in zip(*results):
        assert second['gates'] == first['gates']
        assert second['scores'] == first['scores']


@pytest.mark.parametrize('name', [name for name in VARIANTS if coarse_name(name) == name])
def test_two_processes_know_of_parameters_without_gradient(name, toy, tmp_path):
    # DDP waits for the gradient of every parameter, if it is not told otherwise.
    init_default_scope('mmpretrain')
    cfg = coarse_config(coarse_base(toy()), name, 0, tmp_path)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    batch = next(iter(FiberRunner.build_dataloader(cfg.train_dataloader, seed=0)))
    losses = model(**model.data_preprocessor(batch, True), mode='loss')
    model.parse_losses(losses)[0].backward()
    unused = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused or cfg.find_unused_parameters, unused
