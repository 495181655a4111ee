"""Which engine runs a file: the faster of those that accept it, measured once, or as configured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines import choice, cpu_count, reasons, select
from gguf_embed.engines.base import BatchLimits, LoadedEngine, LoadSpec
from gguf_embed.engines.choice import choose_driver, engine_in_words, load_chosen
from gguf_embed.engines.fake import FakeEngine, fake_plan
from gguf_embed.engines.select import Candidates, RegisteredEngine, open_codec, registered, select_driver
from gguf_embed.engines.throughput import batch_lengths
from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.gguf_file.header import read_header
from gguf_embed.types import OutputSpec, Pooling
from tests.gguf_models import write_tiny_encoder
from tests.static_models import write_static


@dataclass
class FakeDriver:
    """Accepts or refuses; loads the fake engine."""

    name: str
    reason: str | None = None
    tokens_per_s: float = 0.0
    failure: Exception | None = None
    bf16_failed: bool = False
    weights_type: str = ""  # "": its name
    float32_layers: tuple[int, ...] = ()
    estimated: ComputeConfig | None = None  # by which its memory was asked for
    needs_bf16: str = ""  # why it refuses unless BF16 is certain
    n_loads: int = 0
    n_created: int = 0

    def create(self) -> FakeDriver:
        self.n_created += 1
        return self

    def refusal(self, header: object, config: ModelConfig) -> str | None:
        return self.needs_bf16 if self.needs_bf16 and config.compute.precision != "bf16" else self.reason

    def memory_bytes(self, header: object, config: ModelConfig) -> int:
        self.estimated = config.compute
        return 2**20

    def load(self, spec: LoadSpec) -> LoadedEngine:
        self.n_loads += 1
        if self.failure is not None:
            raise self.failure
        engine = FakeEngine()
        return LoadedEngine(engine, engine.codec, self.weights_type or self.name, float32_layers=self.float32_layers)

    def plan(self, loaded: LoadedEngine, spec: LoadSpec, max_input_tokens: int) -> Any:
        assert loaded.weights_type == (self.weights_type or self.name)
        return replace(fake_plan(n_workers=1), bf16_failed=self.bf16_failed)


@dataclass
class Engines:
    """The registered engines: openvino, preferred, and llama; and what was reported to the operator."""

    folder: Path
    openvino: FakeDriver = field(default_factory=lambda: FakeDriver("openvino", tokens_per_s=100.0))
    llama: FakeDriver = field(default_factory=lambda: FakeDriver("llama", tokens_per_s=50.0))
    lines: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = write_tiny_encoder(self.folder / "m.gguf")

    def spec(self, **compute: Any) -> LoadSpec:
        warmup = compute.pop("warmup", True)
        config = ModelConfig(warmup=warmup, compute=ComputeConfig(**compute))
        output = OutputSpec.of(Pooling.MEAN)
        cache = self.folder / "cache"
        return LoadSpec(read_header(self.path), config, output, cache, self.lines.append, open_codec)

    def choose(self, **compute: Any) -> str:
        return choose_driver(self.spec(**compute)).name

    @property
    def n_loads(self) -> tuple[int, int]:
        return self.openvino.n_loads, self.llama.n_loads

    def rate(self, loaded: LoadedEngine, plan: object, spec: object) -> float:
        drivers = (self.openvino, self.llama)
        return {driver.weights_type or driver.name: driver.tokens_per_s for driver in drivers}[loaded.weights_type]


@pytest.fixture
def engines(tmp_path, monkeypatch) -> Engines:
    found = Engines(tmp_path)
    static = select._ENGINES["static"]
    fakes = {driver.name: RegisteredEngine(driver.create) for driver in (found.openvino, found.llama)}
    monkeypatch.setattr(select, "_ENGINES", {"static": static, **fakes})
    monkeypatch.setattr(reasons, "_said", set())
    monkeypatch.setattr(choice, "measure_rate", found.rate)
    return found


@pytest.mark.parametrize(
    ("openvino", "llama", "chosen"),
    [(100.0, 50.0, "openvino"), (50.0, 100.0, "llama"), (100.0, 114.0, "openvino"), (100.0, 116.0, "llama")],
)
def test_the_faster_engine_is_chosen_and_remembered(engines, openvino, llama, chosen):
    engines.openvino.tokens_per_s, engines.llama.tokens_per_s = openvino, llama
    assert engines.choose() == chosen
    assert engines.n_loads == (1, 1)
    (line,) = engines.lines
    assert f"m.gguf will run in the engine {chosen}" in line
    assert f"openvino {openvino:,.0f} tokens/s, llama {llama:,.0f} tokens/s" in line
    assert [engines.choose() for _ in range(2)] == [chosen] * 2
    assert engines.n_loads == (1, 1)
    assert len(engines.lines) == 1


def test_exactness_goes_before_speed(engines):
    engines.llama.tokens_per_s = 1000.0
    spec = engines.spec()
    unattended = {"gguf-embed.colbert.expansion_token": 1}  # which llama.cpp cannot compute
    header = replace(spec.header, metadata={**spec.header.metadata, **unattended})
    assert choose_driver(replace(spec, header=header)).name == "openvino"
    assert engines.n_loads == (0, 0)
    assert engines.choose() == "llama"


def test_once_remembered_the_other_engine_is_not_even_created(engines):
    engines.choose()
    engines.llama.n_created = 0
    assert engines.choose() == "openvino"
    assert engines.llama.n_created == 0


def test_a_changed_file_is_measured_again(engines):
    engines.choose()
    write_tiny_encoder(engines.path, seed=1)
    engines.choose()
    assert engines.n_loads == (2, 2)


@pytest.mark.parametrize(
    "settings",
    [{"n_threads": 1}, {"precision": "f32"}, {"weights": "file"}, {"n_workers": 2}, {"batch_tokens": 64}],
)
def test_other_settings_are_measured_again(engines, settings):
    engines.choose()
    engines.choose(**settings)
    engines.choose(**settings)
    assert engines.n_loads == (2, 2)


def test_another_number_of_processors_is_measured_again(engines, monkeypatch):
    for n_processors in (2, 16, 2, 16):
        monkeypatch.setattr(cpu_count, "n_processors", lambda found=n_processors: found)
        engines.choose()
    assert engines.n_loads == (2, 2)
    engines.choose(n_threads=2)
    assert engines.n_loads == (2, 2)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"engine": "from tomorrow"}',
        '{"engine": ["llama"]}',
    ],
)
def test_a_record_that_cannot_be_used_is_measured_again(engines, content):
    engines.choose()
    (record,) = (engines.folder / "cache" / "measured").iterdir()
    record.write_text(content)
    assert engines.choose() == "openvino"
    assert engines.n_loads == (2, 2)


def test_without_warmup_nothing_is_measured(engines):
    engines.llama.tokens_per_s = 1e6
    assert engines.choose(warmup=False) == "openvino"
    assert engines.n_loads == (0, 0)
    assert not (engines.folder / "cache").exists()


@pytest.mark.parametrize("engine", ["openvino", "llama"])
def test_a_configured_engine_is_taken_unmeasured(engines, engine):
    assert engines.choose(engine=engine) == engine
    assert engines.n_loads == (0, 0)
    assert {"openvino": engines.llama, "llama": engines.openvino}[engine].n_created == 0


def test_a_refusal_is_reported_once_per_reason(engines):
    engines.openvino.reason = "it is too large"
    assert [engines.choose() for _ in range(3)] == ["llama"] * 3
    assert engines.lines == ["m.gguf runs in the engine llama, not in openvino: it is too large"]
    engines.openvino.reason = "it has experts"
    engines.choose()
    assert len(engines.lines) == 2
    assert engines.n_loads == (0, 0)


def test_what_loading_has_freed_goes_back_to_the_system(engines, monkeypatch):
    seen = []
    monkeypatch.setattr(choice, "give_back_memory", lambda: seen.append(engines.n_loads))
    engines.llama.reason = "it does not know it"
    load_chosen(engines.spec())
    assert seen == [(1, 0)]


def test_the_only_engine_that_accepts_is_taken_unmeasured(engines):
    engines.llama.reason = "it does not know it"
    assert engines.choose() == "openvino"
    assert engines.n_loads == (0, 0)
    assert engines.lines == []  # nobody expects the engine that is not preferred


def test_a_remembered_engine_that_refuses_now_is_not_taken(engines):
    assert engines.choose() == "openvino"
    engines.openvino.reason = "too little memory"
    assert engines.choose() == "llama"
    assert engines.n_loads == (1, 1)


def test_memory_is_estimated_by_the_precision_that_was_measured_before(engines):
    engines.openvino.weights_type = "BF16"
    engines.choose()
    engines.openvino.needs_bf16 = "its float32 weights are too large"
    assert engines.choose() == "openvino"
    assert words(engines) == "openvino (openvino 100 tokens/s, llama 50 tokens/s)"
    for others in ({"precision": "f32"}, {"warmup": False}, {"n_threads": 1}):
        assert engines.choose(**others) == "llama"
    assert engines.n_loads == (1, 1)


def test_memory_is_estimated_with_the_layers_that_keep_float32(engines):
    engines.openvino.weights_type = "BF16, layers 1-3 F32"
    engines.openvino.float32_layers = (0, 1, 2)
    engines.choose()
    engines.openvino.needs_bf16 = "its float32 weights are too large"
    assert engines.choose() == "openvino"
    spec = engines.spec()
    choice.estimated_bytes(spec.header, spec.config, spec.output, spec.cache_dir)
    assert engines.openvino.estimated.float32_layers == (0, 1, 2)
    assert spec.config.compute.float32_layers == ()


@pytest.mark.parametrize("layers", ["1-3", {"1": 2}, ["1"], [None]])
def test_layers_that_cannot_be_read_are_estimated_in_float32(engines, layers):
    record = {"engine": "openvino", "weights": "BF16", "float32_layers": layers}
    assert choice.for_estimates(ModelConfig(), record) == ModelConfig()


def test_memory_is_estimated_in_float32_if_it_is_not_known_which_layers_keep_it(engines):
    engines.openvino.weights_type = "BF16, layers 1-3 F32"
    engines.choose()
    engines.openvino.needs_bf16 = "its float32 weights are too large"
    assert engines.choose() == "llama"


def test_if_no_engine_accepts_every_reason_is_listed(engines):
    engines.openvino.reason, engines.llama.reason = "it is too large", "it is unknown"
    with pytest.raises(ModelFileError) as caught:
        engines.choose()
    assert caught.value.message == "m.gguf cannot be run: openvino: it is too large; llama: it is unknown"
    with pytest.raises(ModelFileError, match=r"^m\.gguf cannot be run: llama: it is unknown$"):
        engines.choose(engine="llama")


def test_an_engine_that_does_not_exist_is_named(engines):
    with pytest.raises(ModelFileError, match=r"no engine 'torch' runs bert models"):
        engines.choose(engine="torch")


@pytest.mark.parametrize("engine", ["auto", "llama", "openvino", "static"])
def test_static_models_always_run_in_the_static_engine(engines, engine):
    engines.path = write_static(engines.folder / "static.gguf", ("a", "b"), np.ones((2, 4), np.float32))
    assert engines.choose(engine=engine) == "static"
    assert engines.n_loads == (0, 0)
    assert engines.openvino.n_created == engines.llama.n_created == 0


def test_another_registered_engine_is_taken_without_a_comparison(engines):
    toy = FakeDriver("toy")
    with registered("toy", toy.create, frozenset({"bert"})):  # type: ignore[arg-type]
        assert engines.choose() == "toy"
        assert engines.choose(engine="llama") == "llama"
    assert engines.choose(warmup=False) == "openvino"
    assert (toy.n_loads, engines.n_loads) == (0, (0, 0))


def test_candidates_are_asked_one_after_another(engines):
    spec = engines.spec()
    drivers = Candidates(spec.header, spec.config).drivers()
    assert next(drivers).name == "openvino"
    assert engines.llama.n_created == 0
    assert [driver.name for driver in drivers] == ["llama"]
    assert select_driver(spec.header, spec.config).name == "openvino"


def test_the_trials_engines_are_closed(engines, monkeypatch):
    closed = []
    monkeypatch.setattr(FakeEngine, "close", lambda engine: closed.append(engine))
    engines.choose()
    assert len(closed) == 2


def words(engines: Engines, **compute: Any) -> str:
    spec = engines.spec(**compute)
    return engine_in_words(spec.header, spec.config, spec.output, spec.cache_dir)


def test_the_engine_of_a_file_that_is_not_loaded_in_words(engines):
    assert words(engines) == "openvino or llama: the faster one, measured when it is first served"
    engines.choose()
    assert words(engines) == "openvino (openvino 100 tokens/s, llama 50 tokens/s)"
    assert words(engines, engine="llama") == "llama"
    engines.openvino.reason = "it is too large"
    assert words(engines) == "llama (not openvino: it is too large)"
    engines.llama.reason = "it is unknown"
    assert words(engines) == "not openvino: it is too large; not llama: it is unknown"


def test_without_warmup_the_words_are_those_of_the_engine_that_runs(engines):
    assert engines.choose(warmup=False) == "openvino"
    assert "faster" not in words(engines, warmup=False)


@pytest.mark.parametrize("content", ["{}", '{"engine": "llama"}', '{"engine": "llama", "tokens_per_s": 7}'])
def test_a_record_of_another_form_is_passed_over_in_words(engines, content):
    engines.choose()
    (record,) = (engines.folder / "cache" / "measured").iterdir()
    record.write_text(content)
    assert words(engines)


NO_MEMORY = EngineFailure("m.gguf: OpenVINO cannot compile its graph: no memory may be executable")


def test_an_engine_that_cannot_load_the_file_after_all_is_not_taken(engines):
    engines.openvino.failure = NO_MEMORY
    assert engines.choose() == "llama"


def test_a_failure_is_one_line_and_is_not_remembered(engines):
    engines.openvino.failure = NO_MEMORY
    assert [engines.choose() for _ in range(2)] == ["llama"] * 2
    assert engines.n_loads == (2, 0), "the other engine need not be measured"
    (line,) = engines.lines
    assert line == (
        "m.gguf runs in the engine llama, not in openvino: OpenVINO cannot compile its graph: no memory may be "
        "executable"
    )
    engines.openvino.failure = None
    assert engines.choose() == "openvino"


def test_a_failure_while_measuring_is_not_remembered(engines, monkeypatch):
    rate, failing = engines.rate, ["llama"]

    def measure(loaded: LoadedEngine, *rest: object) -> float:
        if loaded.weights_type in failing:
            raise EngineFailure("it refused a batch")
        return rate(loaded, *rest)

    monkeypatch.setattr(choice, "measure_rate", measure)
    engines.llama.tokens_per_s = 1000.0
    assert engines.choose() == "openvino"
    failing.clear()
    assert engines.choose() == "llama"


def test_a_comparison_without_bf16_which_failed_is_not_remembered(engines):
    engines.openvino.bf16_failed, engines.llama.tokens_per_s = True, 200.0
    assert engines.choose() == "llama"
    engines.openvino.bf16_failed, engines.openvino.tokens_per_s = False, 400.0
    assert [engines.choose() for _ in range(2)] == ["openvino"] * 2
    assert engines.n_loads == (2, 2)


def test_what_an_engine_says_when_it_is_loaded_is_reported_once(engines, monkeypatch):
    load = engines.openvino.load
    monkeypatch.setattr(engines.openvino, "load", lambda spec: (spec.report("it is old"), load(spec))[1])
    load_chosen(engines.spec())
    assert engines.n_loads == (2, 1)
    assert engines.lines.count("it is old") == 1


def test_if_all_engines_fail_the_preferred_one_s_reason_is_the_error_and_nothing_is_remembered(engines):
    engines.openvino.failure, engines.llama.failure = NO_MEMORY, EngineFailure("it has no memory either")
    for _ in range(2):
        with pytest.raises(EngineFailure, match="no memory may be executable"):
            load_chosen(engines.spec())
    engines.openvino.failure = engines.llama.failure = None
    assert engines.choose() == "openvino"


def load(engines: Engines, **compute: Any) -> str:
    driver, loaded = load_chosen(engines.spec(**compute))
    assert loaded.weights_type == driver.name
    return driver.name


@pytest.mark.parametrize("warmup", [True, False])
def test_an_engine_that_fails_later_or_unmeasured_is_replaced_for_this_load(engines, warmup):
    assert load(engines, warmup=warmup) == "openvino"
    engines.openvino.failure = NO_MEMORY
    assert load(engines, warmup=warmup) == "llama"
    assert "not in openvino: OpenVINO cannot compile its graph" in engines.lines[-1]
    engines.openvino.failure = None
    assert load(engines, warmup=warmup) == "openvino"


def test_a_configured_engine_is_not_replaced(engines):
    engines.openvino.failure = NO_MEMORY
    with pytest.raises(EngineFailure, match="no memory may be executable"):
        load(engines, engine="openvino")
    engines.llama.reason = "it is unknown"
    with pytest.raises(EngineFailure, match="no memory may be executable"):
        load(engines)
    assert engines.llama.n_loads == 0


def test_the_best_of_runs_in_turn_is_compared(engines, monkeypatch):
    """While another process computes, an engine looks slower than it is."""
    order = []

    def disturbed(loaded: LoadedEngine, *rest: object) -> float:
        order.append(loaded.weights_type)
        return engines.rate(loaded, *rest) / (10 if len(order) in (1, 4, 5) else 1)

    monkeypatch.setattr(choice, "measure_rate", disturbed)
    assert engines.choose() == "openvino"
    assert order == ["openvino", "llama"] * 3
    assert "openvino 100 tokens/s, llama 50 tokens/s" in engines.lines[0]


@pytest.mark.parametrize(
    ("free_mib", "order"), [(None, "ololol"), (4, "ololol"), (3, "ooolll")], ids=["unknown", "enough", "too little"]
)
def test_engines_that_do_not_fit_together_are_measured_one_after_another(engines, monkeypatch, free_mib, order):
    measured, closed, most = [], [], []

    def measure(loaded: LoadedEngine, *rest: object) -> float:
        measured.append(loaded.weights_type[0])
        most.append(engines.openvino.n_loads + engines.llama.n_loads - len(closed))
        return 1.0

    monkeypatch.setattr(choice, "measure_rate", measure)
    monkeypatch.setattr(FakeEngine, "close", lambda engine: closed.append(engine))
    monkeypatch.setattr(choice, "available_bytes", lambda: None if free_mib is None else free_mib * 2**20)
    engines.choose()
    assert "".join(measured) == order
    assert max(most) == (1 if free_mib == 3 else 2)


def test_a_file_that_is_at_fault_itself_is_not_tried_elsewhere(engines):
    engines.openvino.failure = ModelFileError("tensor x contains NaN or infinity (3 of 9 numbers)")
    with pytest.raises(ModelFileError, match="tensor x"):
        engines.choose()


def test_the_rate_is_measured_with_all_workers_of_the_plan(engines, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(choice, "MEASURE_S", 0.001)
    engine = FakeEngine()
    loaded = LoadedEngine(engine, engine.codec, "fake")
    assert choice.measure_rate(loaded, fake_plan(n_workers=3), engines.spec()) >= 0
    assert len({batch.thread for batch in engine.batches}) == 3
    assert {tuple(map(len, batch.texts)) for batch in engine.batches} == {(10, 21)}
    assert {batch.n_threads for batch in engine.batches} == {1}
    assert engine.n_open_contexts == 0


@pytest.mark.parametrize(
    ("limits", "longest", "lengths"),
    [
        (BatchLimits(256, 64), 512, [10, 21, 21, 40, 120, 10, 21]),
        (BatchLimits(256, 3), 512, [10, 21, 21]),
        (BatchLimits(8, 64), 512, [10]),
        (BatchLimits(64, 64), 16, [10, 16, 16, 16]),
    ],
)
def test_the_texts_to_compare_with_fill_a_batch(limits, longest, lengths):
    assert batch_lengths(limits, longest) == lengths
