"""Chooses between engines that can run the same file, by the speed that each has on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from gguf_embed.config import ModelConfig
from gguf_embed.engines.base import EngineDriver, ExecutionPlan, LoadedEngine, LoadSpec
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.freed_memory import give_back_memory
from gguf_embed.engines.memory import available_bytes
from gguf_embed.engines.reasons import report_once
from gguf_embed.engines.records import MeasurementRecords, record_key
from gguf_embed.engines.select import Candidates, compared_names, isolated_driver, select_driver
from gguf_embed.engines.throughput import batch_lengths, best_rates, sample_batch, tokens_per_s
from gguf_embed.errors import EngineFailure
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.token_heads import expands_unattended
from gguf_embed.types import OutputSpec

COMPARED = compared_names()
"""The engines that are compared. One that is registered later and accepts a file is taken without a comparison."""

MEASURE_S = 0.08
N_ROUNDS = 3
MAX_S = 1.5  # no round begins after it

CLEARLY_FASTER = 1.15


def load_chosen(spec: LoadSpec) -> tuple[EngineDriver, LoadedEngine]:
    """Choose the driver and load the file with it; with another one if the chosen engine fails, and none is configured.

    Raises what `choose_driver` and `EngineDriver.load` raise.
    """
    spec = replace(spec, report=cache(spec.report))  # an engine that is compared first is loaded twice
    driver = choose_driver(spec)
    try:
        return driver, _loaded(driver, spec)
    except EngineFailure as error:
        other = _instead_of(driver, spec)
        if other is None:
            raise
        failures = {driver.name: error.message}
    loaded = _loaded(other, spec)
    _report_failures(failures, other.name, spec)
    return other, loaded


def _loaded(driver: EngineDriver, spec: LoadSpec) -> LoadedEngine:
    spec.on_stage(f"loading it in the engine {driver.name}")
    loaded = driver.load(spec)
    give_back_memory()  # what it read, converted and compared
    return loaded


def _instead_of(failed: EngineDriver, spec: LoadSpec) -> EngineDriver | None:
    """Another driver for the file; None if there is none, or one engine is configured."""
    if failed.name not in COMPARED or spec.config.compute.engine != "auto":
        return None
    others = (driver for driver in _compared(Candidates(spec.header, spec.config)) if driver.name != failed.name)
    return next(others, None)


def choose_driver(spec: LoadSpec) -> EngineDriver:
    """The driver for this file: the fastest one if several can run it, as measured now or by an earlier load.

    Reports why the preferred engine cannot run a file, once per reason. Raises `ModelFileError` if none can.
    """
    if spec.config.isolate:
        return isolated_driver()
    record = _recorded(spec.header, spec.config, spec.output, spec.cache_dir)
    candidates = Candidates(spec.header, for_estimates(spec.config, record))
    first = candidates.first()
    _report_refusals(candidates.refusals, first.name, spec)
    if first.name not in COMPARED or spec.config.compute.engine != "auto" or not spec.config.warmup:
        return first
    if expands_unattended(spec.header):
        return first  # the preferred engine computes it as the original does, the other one cannot
    chosen = record.get("engine")
    if chosen == first.name:
        return first
    drivers = {driver.name: driver for driver in _compared(candidates)}
    if len(drivers) == 1:
        return first
    if isinstance(chosen, str) and chosen in drivers:
        return drivers[chosen]
    comparison = Comparison(spec)
    comparison.run(list(drivers.values()))
    if comparison.failures:  # perhaps for a reason that passes, so nothing is kept
        return drivers[_without_failure(comparison, drivers, spec)]
    rates = comparison.rates
    chosen = fastest(rates)
    if not comparison.bf16_failed:
        key = _key(spec.header, spec.config, spec.output)
        weights, layers = comparison.weights[chosen], comparison.float32_layers[chosen]
        found = {"engine": chosen, "weights": weights, "float32_layers": layers, "tokens_per_s": rates}
        MeasurementRecords(spec.cache_dir).write(key, found)
    spec.report(f"{spec.header.path.name} will run in the engine {chosen}, the faster one here: {_listed(rates)}")
    return drivers[chosen]


def _compared(candidates: Candidates) -> Iterator[EngineDriver]:
    return (driver for driver in candidates.drivers() if driver.name in COMPARED)


def _without_failure(comparison: Comparison, names: Iterable[str], spec: LoadSpec) -> str:
    """The engine that did not fail. Raises `EngineFailure` with the first engine's reason if all did."""
    left = [name for name in names if name not in comparison.failures]
    if not left:
        raise EngineFailure(next(iter(comparison.failures.values())))
    _report_failures(comparison.failures, left[0], spec)
    return left[0]


def fastest(rates: Mapping[str, float]) -> str:
    """The first engine, unless another one is clearly faster: a busy machine does not measure exactly."""
    first = next(iter(rates))
    best = max(rates, key=lambda name: rates[name])
    return best if rates[best] > CLEARLY_FASTER * rates[first] else first


def _report_refusals(refusals: Mapping[str, str], chosen: str, spec: LoadSpec) -> None:
    for name, reason in refusals.items():
        line = f"{spec.header.path.name} runs in the engine {chosen}, not in {name}: {reason}"
        report_once(spec.report, line, reason)


def _report_failures(failures: Mapping[str, str], chosen: str, spec: LoadSpec) -> None:
    """The same for engines that failed, whose messages mostly begin with the file's name."""
    prefix = f"{spec.header.path.name}: "
    _report_refusals({name: reason.removeprefix(prefix) for name, reason in failures.items()}, chosen, spec)


def _listed(rates: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {rate:,.0f} tokens/s" for name, rate in rates.items())


def engine_in_words(header: GgufHeader, config: ModelConfig, output: OutputSpec, cache_dir: Path) -> str:
    """Which engine runs a file that is not loaded, and why, as far as that is known."""
    record = _recorded(header, config, output, cache_dir)
    candidates = Candidates(header, for_estimates(config, record))
    names = [driver.name for driver in candidates.drivers()]
    if len(names) < 2 or names[0] not in COMPARED:
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in candidates.refusals.items())
        return f"{names[0]} ({reasons})" if names and reasons else ", ".join(names) or reasons
    if not config.warmup:
        return names[0]
    rates = record.get("tokens_per_s")
    if record.get("engine") not in names or not isinstance(rates, dict):
        return f"{' or '.join(names)}: the faster one, measured when it is first served"
    return f"{record['engine']} ({_listed(rates)})"


def for_estimates(config: ModelConfig, record: Mapping[str, Any]) -> ModelConfig:
    """The configuration by which memory is estimated: with BF16, and the layers that keep float32, if OpenVINO is
    recorded to have chosen that. Pure.

    Matrices take less memory in BF16. Without a record, an engine assumes float32, which is an upper bound.
    """
    layers = record.get("float32_layers", [])
    is_known = isinstance(layers, list) and all(isinstance(layer, int) for layer in layers)
    is_reduced = record.get("engine") == "openvino" and (record.get("weights") == "BF16" or layers)
    if config.compute.precision != "auto" or not is_known or not is_reduced:
        return config
    return replace(config, compute=replace(config.compute, precision="bf16", float32_layers=tuple(layers)))


def estimated_bytes(header: GgufHeader, config: ModelConfig, output: OutputSpec, cache_dir: Path) -> int:
    """An estimate of the memory that a model and its contexts take, in the precision that was measured before.

    `output` is the default for requests. Raises `ModelFileError` if no engine runs the file.
    """
    known = for_estimates(config, _recorded(header, config, output, cache_dir))
    return select_driver(header, known).memory_bytes(header, known)


def _recorded(header: GgufHeader, config: ModelConfig, output: OutputSpec, cache_dir: Path) -> Mapping[str, Any]:
    """What an earlier comparison has found; {} if there was none, or this configuration compares nothing."""
    if config.compute.engine != "auto" or not config.warmup:
        return {}
    try:
        return MeasurementRecords(cache_dir).read(_key(header, config, output)) or {}
    except OSError:  # the file is gone
        return {}


def _key(header: GgufHeader, config: ModelConfig, output: OutputSpec) -> str:
    compute = config.compute
    settings = (compute.n_workers, compute.batch_tokens, compute.precision, compute.weights, compute.amx)
    return record_key(header.path, "engine", output, config.n_ctx, threads_for(compute), *settings)


@dataclass(slots=True)
class Comparison:
    """Loads a file in several engines, measures them in turn, and unloads it."""

    spec: LoadSpec
    rates: dict[str, float] = field(default_factory=dict)  # tokens per second with all workers busy, by engine
    weights: dict[str, str] = field(default_factory=dict)  # the type of those that run, by engine
    float32_layers: dict[str, Sequence[int]] = field(default_factory=dict)  # that keep it with BF16, by engine
    failures: dict[str, str] = field(default_factory=dict)  # messages only: an error's traceback keeps the weights
    bf16_failed: bool = False  # in an engine that was measured without it
    _runs: dict[str, Callable[[], float]] = field(default_factory=dict)  # what measures the engines that are loaded

    def run(self, drivers: Sequence[EngineDriver]) -> None:
        """Until all are measured, or all but one have failed. Raises `ModelFileError` for a file that is at fault."""
        together = fit_together(drivers, self.spec, available_bytes())
        for group in [drivers] if together else [[driver] for driver in drivers]:
            with ExitStack() as stack:
                stack.callback(self._runs.clear)
                for driver in group:
                    if len(self.failures) < len(drivers) - 1:
                        self._load(driver, stack)
                if len(self.failures) < len(drivers) - 1:
                    self.rates |= best_rates(self._rate, list(self._runs), N_ROUNDS, MAX_S)

    def _load(self, driver: EngineDriver, stack: ExitStack) -> None:
        try:
            loaded = _loaded(driver, self.spec)
            stack.callback(loaded.engine.close)
            trained = loaded.engine.info.n_ctx_train
            plan = driver.plan(loaded, self.spec, min(self.spec.config.n_ctx or trained, trained))
            self._runs[driver.name] = lambda: measure_rate(loaded, plan, self.spec)
            self.weights[driver.name] = loaded.weights_type
            self.float32_layers[driver.name] = loaded.float32_layers
            self.bf16_failed = self.bf16_failed or plan.bf16_failed
        except EngineFailure as error:
            self.failures[driver.name] = error.message

    def _rate(self, name: str) -> float:
        if name in self.failures:
            return 0.0
        self.spec.on_stage(f"computing in the engine {name}")
        try:
            return self._runs[name]()
        except EngineFailure as error:
            self.failures[name] = error.message
            return 0.0


def fit_together(drivers: Sequence[EngineDriver], spec: LoadSpec, free_bytes: int | None) -> bool:
    """Whether all engines may hold the file at once, with as much again for what computing takes. Pure.

    They are then measured in alternation, else one after another.
    """
    needed = sum(driver.memory_bytes(spec.header, spec.config) for driver in drivers)
    return free_bytes is None or 2 * needed <= free_bytes


def measure_rate(loaded: LoadedEngine, plan: ExecutionPlan, spec: LoadSpec) -> float:
    """Tokens per second of all workers together, in batches as the scheduler makes them."""
    lengths = batch_lengths(plan.limits, plan.contexts.long_tokens)
    context = plan.contexts.spec(spec.output, sum(lengths), long=False)
    batch = sample_batch(lengths, loaded.engine.info.n_vocab)
    n_threads = max(1, plan.n_threads // plan.n_workers)
    return tokens_per_s(lambda: loaded.engine.open_context(context), batch, plan.n_workers, n_threads, MEASURE_S)
