"""Which models leave for which, decided without any model."""

import math
from dataclasses import replace

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig, PoolLimits
from gguf_embed.engines.cpu_count import n_processors
from gguf_embed.model_pool.eviction import (
    EvictionCandidate,
    EvictionPlan,
    needs_reload,
    plan_eviction,
    seconds_left,
    with_options,
)
from gguf_embed.types import LoadOptions
from tests.model_pool.fake_models import make_spec

NO_LIMIT = PoolLimits(max_models=0)


def idle(key, used_s, memory=10):
    return EvictionCandidate(key, memory, 0, used_s)


def busy(key, memory=10):
    return EvictionCandidate(key, memory, 1, 99.0)


def unloading(key, memory=10):
    return EvictionCandidate(key, memory, 0, 0.0, unloading=True)


@pytest.mark.parametrize(
    ("candidates", "need", "limits", "plan"),
    [
        ([], 10, NO_LIMIT, EvictionPlan()),
        ([idle("a", 1)], 10, PoolLimits(2), EvictionPlan()),
        ([idle("a", 2), idle("b", 1)], 10, PoolLimits(2), EvictionPlan(("b",))),
        ([busy("a"), idle("b", 5)], 10, PoolLimits(2), EvictionPlan(("b",))),
        ([busy("a"), busy("b")], 10, PoolLimits(2), EvictionPlan(wait=True)),
        ([unloading("a"), busy("b")], 10, PoolLimits(2), EvictionPlan(wait=True)),
        ([idle("a", 1), idle("b", 2)], 10, PoolLimits(0, 25), EvictionPlan(("a",))),
        ([idle("a", 1, 5), idle("b", 2, 5), idle("c", 3, 15)], 20, PoolLimits(0, 25), EvictionPlan(("a", "b", "c"))),
        ([idle("a", 1, 5), busy("b", 20)], 20, PoolLimits(0, 25), EvictionPlan(wait=True)),  # a would leave in vain
        ([], 26, PoolLimits(0, 25), EvictionPlan(impossible=True)),
        ([idle("a", 1)], 25, PoolLimits(0, 25), EvictionPlan(("a",))),
    ],
)
def test_room_is_made_by_the_least_recently_used_idle_models(candidates, need, limits, plan):
    assert plan_eviction(candidates, need, limits) == plan


@pytest.mark.parametrize(
    ("keep_alive_s", "now_s", "left"), [(300.0, 100.0, 300.0), (300.0, 150.0, 250.0), (10.0, 200.0, 0), (0.0, 100.0, 0)]
)
def test_an_idle_model_may_stay_until_its_time_is_up(keep_alive_s, now_s, left):
    assert seconds_left(100.0, keep_alive_s, now_s) == left


def test_forever_has_no_expiry():
    assert seconds_left(0.0, math.inf, 1e12) is None


@pytest.mark.parametrize(
    ("asked", "reload"),
    [
        (LoadOptions(), False),
        (LoadOptions(n_ctx=8), False),  # a limit on each text does it
        (LoadOptions(n_ctx=64), True),  # the model could take longer texts than it was loaded for
        (LoadOptions(n_threads=2), False),
        (LoadOptions(n_threads=1), True),
        (LoadOptions(batch_tokens=128), True),
        (LoadOptions(n_gpu_layers=-1), True),
        (LoadOptions(n_gpu_layers=0), False),
    ],
)
def test_only_options_that_change_something_need_a_reload(asked, reload):
    loaded = ModelConfig(n_ctx=16, compute=ComputeConfig(n_threads=2))
    info = replace(make_spec().info, max_input_tokens=16, n_ctx_train=512)
    assert needs_reload(loaded, info, asked, has_gpu=True) is reload


def test_without_a_gpu_its_layers_change_nothing():
    info = make_spec().info
    assert not needs_reload(ModelConfig(), info, LoadOptions(n_gpu_layers=-1), has_gpu=False)


def test_options_out_of_range_are_clamped():
    asked = LoadOptions(n_ctx=99, n_threads=10_000, batch_tokens=0, n_gpu_layers=-7)
    config = with_options(ModelConfig(), asked, has_gpu=True)
    assert (config.n_ctx, config.compute.n_threads, config.compute.batch_tokens) == (99, n_processors(), 1)
    assert config.compute.offload.n_gpu_layers == -1
