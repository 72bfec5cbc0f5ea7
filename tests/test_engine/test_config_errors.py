"""A mistyped key is named, and so is what was probably meant."""

from __future__ import annotations

import pytest
from mmengine.registry import Registry
from mmengine.runner import Runner

from fiber_mm.engine import ConfigError, check_config, explain_build_error
from fiber_mm.engine.config import known_keys
from fiber_mm.registry import HOOKS


@pytest.mark.parametrize(
    ('key', 'meant'),
    [
        ('param_schedular', 'param_scheduler'),
        ('optim_wraper', 'optim_wrapper'),
        ('train_dataloder', 'train_dataloader'),
        ('load_form', 'load_from'),
        ('modle', 'model'),
        ('val_evalutaor', 'val_evaluator'),
        ('custom_hook', 'custom_hooks'),
    ],
)
def test_mistyped_top_level_key(key, meant):
    with pytest.raises(ConfigError, match=f"'{key}'; did you mean '{meant}'"):
        check_config({key: 1})
    # A mistyped override leaves what it should have overridden beside it.
    with pytest.raises(ConfigError, match=f"'{key}'; did you mean '{meant}'"):
        check_config({meant: 1, key: 2})


def test_checkpoint_hook_knows_its_keys():
    with pytest.raises(TypeError, match='intervall') as error:
        HOOKS.build(dict(type='FiberCheckpointHook', intervall=2))
    assert 'did you mean' in explain_build_error(error.value)


@pytest.mark.parametrize(
    ('section', 'message'),
    [
        (dict(env_cfg=dict(cudnn_benchmrk=True)), "env_cfg.cudnn_benchmrk; .*'cudnn_benchmark'"),
        (dict(default_hooks=dict(chekpoint=dict(interval=1))), "chekpoint has no type; .*'checkp"),
        (dict(default_hooks=dict(mine=dict(interval=1))), 'mine has no type; known are checkpoint'),
    ],
)
def test_mistyped_keys_of_sections(section, message):
    with pytest.raises(ConfigError, match=message):
        check_config(section)


def test_helper_variables_are_allowed():
    names = ('data_root', 'dataset_type', 'base_lr', 'img_scale', 'backend_args', 'max_iters',
             'test_pipeline', 'lang_model_name', 'classes', 'num_classes', 'prompt')  # fmt: skip
    check_config(dict.fromkeys(names, 1))
    check_config(dict.fromkeys(known_keys(), 1))


SHAPES = Registry('shapes of this test')


@SHAPES.register_module()
class Base:
    def __init__(self, colour: str = 'red', **kwargs) -> None:
        for key in kwargs:
            raise TypeError(f"Base.__init__() got an unexpected keyword argument '{key}'")


@SHAPES.register_module()
class Circle(Base):
    def __init__(self, radius: int = 1, **kwargs) -> None:
        super().__init__(**kwargs)


@SHAPES.register_module()
class Group:
    def __init__(self, parts: list) -> None:
        self.parts = [SHAPES.build(part) for part in parts]


def build_error(registry, cfg) -> TypeError:
    with pytest.raises(TypeError) as info:
        registry.build(cfg)
    return info.value


def test_mistyped_argument_names_class_key_and_the_nearest():
    text = explain_build_error(build_error(SHAPES, dict(type='Group', parts=[], part=1)))
    assert text == "config: Group got an unknown key 'part'; did you mean 'parts'?"


def test_the_class_in_the_config_is_named_not_its_base():
    error = build_error(SHAPES, dict(type='Group', parts=[dict(type='Circle', color='blue')]))
    assert explain_build_error(error) == (
        "config: Circle got an unknown key 'color'; did you mean 'colour'?"
    )


def test_without_a_near_key_all_are_listed():
    error = build_error(SHAPES, dict(type='Circle', zzz=1))
    assert explain_build_error(error).endswith("unknown key 'zzz'; it accepts colour, radius")


def test_mistyped_dataloader_key():
    loader = dict(dataset=[1, 2], sampler=dict(type='DefaultSampler'), batch_sise=2)
    with pytest.raises(TypeError) as error:
        Runner.build_dataloader(loader)
    text = explain_build_error(error.value)
    assert text.startswith("config: DataLoader got an unknown key 'batch_sise'; did you mean ")
    assert "'batch_size'" in text


def test_other_errors_are_left_alone():
    assert explain_build_error(TypeError('unsupported operand')) is None
    assert explain_build_error(ValueError("f() got an unexpected keyword argument 'a'")) is None
