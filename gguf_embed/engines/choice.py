"""Chooses between engines that can run the same file, by the speed that each has on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import EngineDriver, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.records import MeasurementRecords, record_key
from gguf_embed.engines.select import Candidates, isolated_driver
from gguf_embed.engines.throughput import batch_lengths, sample_batch, tokens_per_s
from gguf_embed.errors import EngineFailure
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.token_heads import expands_unattended
from gguf_embed.types import OutputSpec

COMPARED = ("openvino", "llama")
"""The engines that are compared. Any other one that accepts a file is taken without a comparison."""

MEASURE_S = 0.25
CLEARLY_FASTER = 1.15

_said: set[str] = set()


def choose_driver(spec: LoadSpec) -> EngineDriver:
    """The driver for this file: the fastest one if several can run it, as measured now or by an earlier load.

    Reports why the preferred engine cannot run a file, once per reason. Raises `ModelFileError` if none can.
    """
    if spec.config.isolate:
        return isolated_driver()
    candidates = Candidates(spec.header, spec.config)
    first = candidates.first()
    _report_refusals(candidates.refusals, first.name, spec)
    if first.name not in COMPARED or spec.config.compute.engine != "auto" or not spec.config.warmup:
        return first
    if expands_unattended(spec.header):
        return first  # the preferred engine computes it as the original does, the other one cannot
    records, key = MeasurementRecords(spec.cache_dir), _key(spec.header, spec.config, spec.output)
    record = records.read(key) or {}
    chosen = record.get("engine")
    if chosen == first.name:
        return first
    drivers = {driver.name: driver for driver in candidates.drivers() if driver.name in COMPARED}
    if len(drivers) == 1:
        return first
    if not isinstance(chosen, str) or chosen not in drivers:
        rates = {name: _trial(driver, spec) for name, driver in drivers.items()}
        chosen = fastest(rates)
        records.write(key, {"engine": chosen, "tokens_per_s": rates})
        spec.report(f"{spec.header.path.name} will run in the engine {chosen}, the faster one here: {_listed(rates)}")
    return drivers[chosen]


def fastest(rates: Mapping[str, float]) -> str:
    """The first engine, unless another one is clearly faster: a busy machine does not measure exactly."""
    first = next(iter(rates))
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > CLEARLY_FASTER * rates[first] else first


def _report_refusals(refusals: Mapping[str, str], chosen: str, spec: LoadSpec) -> None:
    for name, reason in refusals.items():
        if reason not in _said:
            _said.add(reason)
            spec.report(f"{spec.header.path.name} runs in the engine {chosen}, not in {name}: {reason}")


def _listed(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())


def engine_in_words(header: GgufHeader, config: ModelConfig, output: OutputSpec, cache_dir: Path) -> str:
    """Which engine runs a file that is not loaded, and why, as far as that is known."""
    candidates = Candidates(header, config)
    names = [driver.name for driver in candidates.drivers()]
    if len(names) < 2 or names[0] not in COMPARED:
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in candidates.refusals.items())
        return f"{names[0]} ({reasons})" if names and reasons else ", ".join(names) or reasons
    if not config.warmup:
        return names[0]
    record = MeasurementRecords(cache_dir).read(_key(header, config, output)) or {}
    rates = record.get("tokens_per_s")
    if record.get("engine") not in names or not isinstance(rates, dict):
        return f"{' or '.join(names)}: the faster one, measured when it is first served"
    return f"{record['engine']} ({_listed(rates)})"


def _key(header: GgufHeader, config: ModelConfig, output: OutputSpec) -> str:
    compute = config.compute
    settings = (compute.n_threads, compute.n_workers, compute.precision, compute.weights, compute.amx)
    return record_key(header.path, "engine", output, config.n_ctx, *settings)


def _trial(driver: EngineDriver, spec: LoadSpec) -> float:
    """Load the file, measure, and unload it. Tokens per second with all workers busy; 0 if the engine fails.

    Raises `ModelFileError` for a file that is at fault itself.
    """
    try:
        return _measured(driver, spec)
    except EngineFailure as error:
        spec.report(f"{spec.header.path.name} does not run in the engine {driver.name}: {error.message}")
        return 0.0


def _measured(driver: EngineDriver, spec: LoadSpec) -> float:
    spec.on_stage(f"loading it in the engine {driver.name}")
    loaded = driver.load(spec)
    with closing(loaded.engine):
        spec.on_stage(f"computing in the engine {driver.name}")
        trained = loaded.engine.info.n_ctx_train
        plan = driver.plan(loaded, spec, min(spec.config.n_ctx or trained, trained))
        return measure_rate(loaded, plan, spec)


def measure_rate(loaded: LoadedEngine, plan: ExecutionPlan, spec: LoadSpec) -> float:
    """Tokens per second of all workers together, in batches as the scheduler makes them."""
    lengths = batch_lengths(plan.limits, plan.contexts.long_tokens)
    context = plan.contexts.spec(spec.output, sum(lengths), long=False)
    batch = sample_batch(lengths, loaded.engine.info.n_vocab)
    n_threads = max(1, plan.n_threads // plan.n_workers)
    return tokens_per_s(lambda: loaded.engine.open_context(context), batch, plan.n_workers, n_threads, MEASURE_S)
