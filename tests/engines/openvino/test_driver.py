"""The driver: which tokenizer it opens, what it measures and remembers, and how its plan follows the configuration."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines.base import ClosableCodec, ExecutionPlan, LoadSpec
from gguf_embed.engines.openvino import build, calibration, network, weights
from gguf_embed.engines.openvino import precision as precision_module
from gguf_embed.engines.openvino.build import ModelBuilder
from gguf_embed.engines.openvino.calibration import Choice
from gguf_embed.engines.openvino.driver import OpenVinoDriver
from gguf_embed.engines.openvino.network import Network
from gguf_embed.engines.openvino.runtime import computes_bf16
from gguf_embed.engines.openvino.weights import GraphWeights
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import ConfigError, EngineFailure
from gguf_embed.gguf_file.header import read_header
from gguf_embed.tokenization.wordpiece_codec import WordPieceCodec
from gguf_embed.types import OutputSpec, Pooling
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder

MEASURED = Choice("f32", 1, 252, 12_345.0, "gemm", "near", True)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    return write_tiny_encoder(tmp_path_factory.mktemp("driver") / "encoder.gguf")


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Path:
    return write_tiny_decoder(tmp_path_factory.mktemp("driver") / "decoder.gguf")


def spec_of(path: Path, cache_dir: Path, pooling: Pooling = Pooling.MEAN, **config: Any) -> LoadSpec:
    """`config`: of the model, or of its computing."""
    compute = {key: config.pop(key) for key in tuple(config) if key in ComputeConfig.__dataclass_fields__}
    whole = ModelConfig(compute=ComputeConfig(**{"n_threads": 2} | compute), **config)
    return LoadSpec(read_header(path), whole, OutputSpec.of(pooling), cache_dir, lambda line: None, open_codec)


def refuse(*_: object) -> Any:
    raise AssertionError("not expected")


def load_and_plan(spec: LoadSpec) -> ExecutionPlan:
    driver = OpenVinoDriver()
    loaded = driver.load(spec)
    with closing(loaded.engine):
        return driver.plan(loaded, spec, loaded.engine.info.n_ctx_train)


@pytest.fixture
def measurements(monkeypatch) -> list[ModelBuilder]:
    """Nothing is measured; who asked for it."""
    asked: list[ModelBuilder] = []
    monkeypatch.setattr(ModelBuilder, "measured", lambda builder: (asked.append(builder), MEASURED)[1])
    return asked


class Opened:
    """Opens llama.cpp's codec and counts."""

    def __init__(self) -> None:
        self.n_opened = self.n_closed = 0

    def __call__(self, path: Path) -> ClosableCodec:
        self.n_opened += 1
        opened = open_codec(path)
        return ClosableCodec(opened.codec, lambda: (opened.close(), self._count_close())[1])

    def _count_close(self) -> None:
        self.n_closed += 1


@pytest.mark.parametrize(
    ("model", "tokenizer", "opens_llama"),
    [("encoder", "auto", False), ("encoder", "llama", True), ("decoder", "auto", True), ("decoder", "llama", True)],
)
def test_llama_cpps_tokenizer_is_opened_only_where_it_is_needed(request, tmp_path, model, tokenizer, opens_llama):
    opened = Opened()
    path = request.getfixturevalue(model)
    spec = replace(spec_of(path, tmp_path, warmup=False, tokenizer=tokenizer), open_codec=opened)
    loaded = OpenVinoDriver().load(spec)
    with closing(loaded.engine):
        assert isinstance(loaded.codec, WordPieceCodec) is not opens_llama
        assert loaded.exact in (None, loaded.codec)
        assert loaded.codec.tokenize("hello", add_special=True, parse_special=True)
        assert (opened.n_opened, opened.n_closed) == (opens_llama, 0)
    assert opened.n_closed == opens_llama


@pytest.mark.parametrize(
    ("flags", "n_workers", "n_threads", "alone", "batch_tokens"),
    [
        ({}, 1, 2, 2, 252),
        ({"batch_tokens": 100}, 1, 2, 2, 100),
        ({"batch_tokens": 4096}, 1, 2, 2, 4096),
        ({"n_workers": 2}, 2, 2, 2, 252),
        ({"n_workers": 2, "alone_threads": 1}, 2, 2, 1, 252),
        ({"n_workers": 3, "n_threads": 1}, 3, 1, 1, 252),
        ({"n_threads": 1}, 1, 1, 1, 252),
    ],
)
def test_the_plan_follows_the_configuration(
    encoder, tmp_path, measurements, flags, n_workers, n_threads, alone, batch_tokens
):
    plan = load_and_plan(spec_of(encoder, tmp_path, **flags))
    assert (plan.n_workers, plan.n_threads, plan.alone_threads) == (n_workers, n_threads, alone)
    assert (plan.limits.max_tokens, plan.limits.max_sequences) == (batch_tokens, 256)
    assert plan.contexts.max_tokens == max(batch_tokens, 64)
    assert (plan.tokens_per_s, plan.measured) == (12_345.0, True)
    assert plan.details == ("BF16 not used: near",)
    assert plan.kernels


def test_contexts_of_the_plan_run_what_they_are_for(tmp_path):
    path = write_tiny_encoder(tmp_path / "long.gguf", n_ctx=2048)
    spec = spec_of(path, tmp_path, warmup=False, batch_tokens=128)
    driver = OpenVinoDriver()
    loaded = driver.load(spec)
    with closing(loaded.engine):
        contexts = driver.plan(loaded, spec, 2048).contexts
        assert (contexts.max_tokens, contexts.long_tokens) == (1024, 2048)
        for n_tokens, long in ((1024, False), (2048, True)):
            context_spec = contexts.spec(spec.output, n_tokens, long=long)
            with closing(loaded.engine.open_context(context_spec)) as context:
                assert context.embed([[5] * n_tokens], 1).fault() == ""
        assert contexts.spec(spec.output, 10, long=False) == contexts.spec(spec.output, 500, long=False)


def test_the_second_load_reads_what_the_first_measured(encoder, tmp_path, monkeypatch):
    first = load_and_plan(spec_of(encoder, tmp_path))
    assert first.measured
    assert first.tokens_per_s > 0
    assert first.n_workers in (1, 2)
    monkeypatch.setattr(ModelBuilder, "measured", refuse)
    assert load_and_plan(spec_of(encoder, tmp_path)) == first


CHANGES: dict[str, dict[str, Any]] = {
    "precision": {"precision": "f32"},
    "threads": {"n_threads": 1},
    "the file's own weights": {"weights": "file"},
    "output": {"pooling": Pooling.NONE},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_other_settings_are_measured_again(encoder, tmp_path, measurements, change):
    for n_measured, settings in ((1, {}), (1, {}), (2, change), (2, change), (2, {})):
        load_and_plan(spec_of(encoder, tmp_path, **settings))
        assert len(measurements) == n_measured


@pytest.mark.parametrize("settings", [{"n_workers": 2}, {"batch_tokens": 64}, {"n_ctx": 32}, {"tokenizer": "llama"}])
def test_settings_that_do_not_matter_are_not_measured_again(encoder, tmp_path, measurements, settings):
    load_and_plan(spec_of(encoder, tmp_path))
    load_and_plan(spec_of(encoder, tmp_path, **settings))
    assert len(measurements) == 1


def test_a_changed_file_is_measured_again(tmp_path, measurements):
    path = tmp_path / "m.gguf"
    for n_measured, seed in ((1, 0), (2, 1)):
        load_and_plan(spec_of(write_tiny_encoder(path, seed=seed), tmp_path))
        assert len(measurements) == n_measured


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[1, 2]",
        '{"precision": "f32", "from_tomorrow": 1}',
        '{"precision": "int4"}',
        '{"precision": "f32", "n_streams": 0}',
        '{"precision": "f32", "n_streams": "two"}',
    ],
)
def test_a_record_that_cannot_be_used_is_measured_again(encoder, tmp_path, measurements, content):
    load_and_plan(spec_of(encoder, tmp_path))
    (record,) = (tmp_path / "measured").iterdir()
    record.write_text(content)
    load_and_plan(spec_of(encoder, tmp_path))
    assert len(measurements) == 2


@pytest.mark.parametrize(
    ("precision", "weights_type", "computes"), [("auto", "F32", True), ("f32", "F32", True), ("bf16", "BF16", True)]
)
def test_without_warmup_nothing_is_measured_or_written(
    encoder, tmp_path, monkeypatch, precision, weights_type, computes
):
    monkeypatch.setattr(ModelBuilder, "measured", refuse)
    monkeypatch.setattr(build, "computes_bf16", lambda: computes)
    spec = spec_of(encoder, tmp_path / "cache", warmup=False, precision=precision)
    driver = OpenVinoDriver()
    loaded = driver.load(spec)
    with closing(loaded.engine):
        plan = driver.plan(loaded, spec, 64)
    assert loaded.weights_type == weights_type
    assert (plan.measured, plan.n_workers, plan.details) == (False, 1, ())
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("warmup", [True, False])
def test_bf16_on_a_cpu_without_it_is_a_wrong_configuration(encoder, tmp_path, monkeypatch, warmup):
    monkeypatch.setattr(build, "computes_bf16", lambda: False)
    monkeypatch.setattr(ModelBuilder, "compile", refuse)
    with pytest.raises(ConfigError, match="--precision bf16: this CPU has no BF16 instructions"):
        OpenVinoDriver().load(spec_of(encoder, tmp_path, warmup=warmup, precision="bf16"))


@pytest.mark.parametrize(
    ("settings", "computes", "asked"),
    [
        ({}, True, "auto"),
        ({}, False, "f32"),
        ({"weights": "file"}, True, "f32"),
        ({"precision": "f32"}, True, "f32"),
        ({"precision": "bf16"}, True, "bf16"),
        ({"precision": "bf16", "weights": "file"}, True, "bf16"),
    ],
)
def test_which_precisions_are_measured(encoder, tmp_path, monkeypatch, settings, computes, asked):
    found = []

    def calibrate(builder: object, samples: list[list[int]], output: OutputSpec, *rest: Any) -> Choice:
        found.append(rest)
        assert samples
        assert all(1 <= len(sample) <= 64 for sample in samples)
        return MEASURED

    monkeypatch.setattr(build, "calibrate", calibrate)
    monkeypatch.setattr(build, "computes_bf16", lambda: computes)
    load_and_plan(spec_of(encoder, tmp_path, **settings))
    assert found == [(2, asked)]


@pytest.mark.parametrize("failing", ["measured", "compile"])
def test_a_failed_load_closes_the_codec(decoder, tmp_path, monkeypatch, failing):
    monkeypatch.setattr(ModelBuilder, failing, refuse)
    opened = Opened()
    with pytest.raises(AssertionError, match="not expected"):
        OpenVinoDriver().load(replace(spec_of(decoder, tmp_path, Pooling.LAST), open_codec=opened))
    assert (opened.n_opened, opened.n_closed) == (1, 1)


@pytest.mark.parametrize("recorded", ["f32", "bf16"])
def test_a_second_load_builds_only_what_the_record_says(encoder, tmp_path, monkeypatch, recorded):
    built, chosen = [], replace(MEASURED, precision=recorded)

    def build_network(weights: GraphWeights, *args: Any, **options: Any) -> Network:
        built.append("bf16" if weights.for_bf16 else "f32")
        return network.build_network(weights, *args, **options)

    monkeypatch.setattr(weights, "IS_X86", True)
    monkeypatch.setattr(ModelBuilder, "measured", lambda builder: chosen)
    monkeypatch.setattr(build, "build_network", build_network)
    monkeypatch.setattr(build, "computes_bf16", lambda: True)
    for _ in range(2):
        load_and_plan(spec_of(encoder, tmp_path))
    assert built == [recorded] * 2


@pytest.mark.parametrize(
    ("module", "failing"),
    [(build, "computes_bf16"), (build, "build_network"), (build, "compile_graph"), (calibration, "compare")],
)
@pytest.mark.parametrize("error", [RuntimeError("Exception from src/x.cpp:7:\nno such device\n"), MemoryError()])
def test_whatever_fails_in_openvino_is_an_engine_failure(encoder, tmp_path, monkeypatch, module, failing, error):
    def fail(*args: object, **options: object) -> Any:
        raise error

    monkeypatch.setattr(module, failing, fail)
    if failing == "compare":
        monkeypatch.setattr(build, "computes_bf16", lambda: True)
    with pytest.raises(EngineFailure, match=r"^encoder\.gguf: OpenVINO cannot .*: (no such device|.*enough memory)$"):
        OpenVinoDriver().load(spec_of(encoder, tmp_path))
    assert not (tmp_path / "measured").exists()


def test_an_openvino_that_cannot_be_imported_is_an_engine_failure(encoder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf_embed.engines.openvino.build", None)
    with pytest.raises(EngineFailure, match=r"^the package openvino cannot be imported: .*"):
        OpenVinoDriver().load(spec_of(encoder, tmp_path))


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_temporary_folder_without_room_means_float32_unless_bf16_is_configured(
    encoder, tmp_path, monkeypatch, precision
):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    said: list[str] = []
    monkeypatch.setattr(precision_module, "serialize", no_space)
    monkeypatch.setattr(build, "computes_bf16", lambda: True)
    spec = replace(spec_of(encoder, tmp_path, precision=precision), report=said.append)
    if precision == "bf16":
        with pytest.raises(EngineFailure, match=r"BF16 needs a folder for temporary files .*No space left"):
            OpenVinoDriver().load(spec)
    else:
        loaded = OpenVinoDriver().load(spec)
        loaded.engine.close()
        assert loaded.weights_type == "F32"
        assert "encoder.gguf runs in float32: BF16 needs a folder" in said[0]


@pytest.mark.parametrize("failing", ["serialize", "compile_graph"])
def test_a_choice_that_was_made_because_bf16_failed_is_not_remembered(encoder, tmp_path, monkeypatch, failing):
    module = {"serialize": precision_module, "compile_graph": build}[failing]
    real, said = getattr(module, failing), []

    def fail(model: Any, precision: str, *rest: Any) -> Any:
        if failing == "serialize" or precision == "bf16":
            raise RuntimeError("no room")
        return real(model, precision, *rest)

    monkeypatch.setattr(build, "computes_bf16", lambda: True)
    spec = replace(spec_of(encoder, tmp_path / "cache"), report=said.append)
    with monkeypatch.context() as failed:
        failed.setattr(module, failing, fail)
        assert load_and_plan(spec).bf16_failed
    (line,) = said
    assert line.startswith("encoder.gguf runs in float32: ")
    assert line.count("encoder.gguf") == 1
    assert "no room" in line
    assert not (tmp_path / "cache").exists()
    assert not load_and_plan(spec).bf16_failed
    assert len(list((tmp_path / "cache" / "measured").iterdir())) == 1
    assert said == [line]


@pytest.mark.skipif(not computes_bf16(), reason="this CPU has no BF16 instructions")
def test_bf16_needs_no_temporary_folder_but_shared_memory(encoder, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    loaded = OpenVinoDriver().load(spec_of(encoder, tmp_path, warmup=False, precision="bf16"))
    loaded.engine.close()
    assert loaded.weights_type == "BF16"


def test_memory_is_estimated_without_loading(encoder):
    header = read_header(encoder)
    assert OpenVinoDriver().memory_bytes(header, ModelConfig()) > header.size_bytes
    assert OpenVinoDriver().supports_gpu() is False


LOAD = """
import sys
from pathlib import Path
from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import load_model
from gguf_embed.model_store.locate import LocatedModel
path, engine = Path(sys.argv[1]), sys.argv[2]
config = ModelConfig(warmup=False, compute=ComputeConfig(engine=engine))
model = load_model(LocatedModel(path, "m"), config, path.parent, Metrics(), lambda line: None)
model.close()
assert model.info.engine == engine, model.info.engine
names = {name for name, module in sys.modules.items() if module is not None}
print("llama", any(name.partition(".")[0] == "llama_cpp" for name in names))
print("openvino", "openvino" in names)
print("converter", "openvino.tools.ovc" in names or "torch" in names)
"""


@pytest.mark.parametrize(("engine", "other"), [("openvino", "llama"), ("llama", "openvino")])
def test_an_engine_does_not_import_the_other(encoder, engine, other):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(encoder), engine], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = dict(line.split() for line in done.stdout.splitlines())
    assert imported == {engine: "True", other: "False", "converter": "False"}


def test_the_kernel_is_named_after_warm_up(encoder, tmp_path):
    first, second = (load_and_plan(spec_of(encoder, tmp_path)) for _ in range(2))
    assert "gemm" in first.kernels
    assert second.kernels == first.kernels
    assert load_and_plan(spec_of(encoder, tmp_path, warmup=False)).kernels == "unchecked"


def test_openvinos_converter_cannot_be_imported():
    code = (
        "import sys; import gguf_embed.engines.openvino.runtime; "
        "assert sys.modules['openvino.tools.ovc'] is None; "
        "assert not any(name.startswith('openvino_telemetry') for name in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
