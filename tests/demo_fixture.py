"""A demo of two steps on a dozen images."""

from fiber_mm.config_lookup import get_config
from fiber_mm.demo.settings import COARSE_CONFIG, CONFIG, DemoSettings

IN_ONE_PROCESS = dict(num_workers=0, persistent_workers=False)


def tiny_settings(folder, **kwargs) -> DemoSettings:
    """Settings of a demo in a folder, with its data."""
    text = get_config(CONFIG).pretty_text.replace('data/shapes', str(folder / 'shapes'))
    config = folder / 'tiny.py'
    config.write_text(text)
    options = {
        'shapes': dict(splits=dict(train=12, val=10), seed=0, image_size=128),
        'train_cfg.max_iters': 2,
        'train_cfg.val_interval': 2,
        'train_dataloader.batch_size': 2,
        'train_dataloader.dataset.datasets.2.indices': 20,
        'val_dataloader.dataset.indices': 4,
        'default_hooks.logger.interval': 1,
        'default_hooks.checkpoint.interval': 2,
    }
    for part in ('train', 'val', 'test'):
        for key, value in IN_ONE_PROCESS.items():
            options[f'{part}_dataloader.{key}'] = value
    coarse = get_config(COARSE_CONFIG)
    coarse.merge_from_dict(
        {
            'train_dataloader.batch_size': 4,
            'default_hooks.logger.interval': 1,
            **{f'train_dataloader.{key}': value for key, value in IN_ONE_PROCESS.items()},
        }
    )
    coarse_config = folder / 'tiny_coarse.py'
    coarse_config.write_text(coarse.pretty_text)
    return DemoSettings(
        work_dir=folder / 'demo',
        config=str(config),
        cfg_options=options,
        coarse_config=str(coarse_config),
        **kwargs,
    )
