"""Loading a real tiny GGUF: what is reported, chosen and refused, and that nothing stays open."""

import asyncio
import dataclasses
import threading
from pathlib import Path

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.errors import ConfigError, EngineFailure, ModelFileError
from gguf_embed.metrics import Metrics
from gguf_embed.model_pool.loading import LoadedModel, load_model
from gguf_embed.model_pool.model_threads import Patience
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder

TWO = ComputeConfig(n_threads=2)
IN_LLAMA = dataclasses.replace(TWO, engine="llama")


def test_the_file_decides_pooling_limit_and_name(load, tmp_path):
    loaded, said = load(write_tiny_encoder(tmp_path / "small.gguf", n_ctx=64), ModelConfig(compute=IN_LLAMA))
    assert (loaded.info.name, loaded.info.pooling, loaded.info.max_input_tokens) == ("small", Pooling.MEAN, 64)
    plan = loaded.scheduler.plan
    assert (plan.n_workers, plan.n_threads, plan.measured) == (2, 2, True)
    assert not [line for line in said if "limit" in line]


def test_a_context_beyond_training_reports_the_real_limit(load, tmp_path):
    loaded, said = load(write_tiny_encoder(tmp_path / "m.gguf", n_ctx=64), ModelConfig(n_ctx=8192, compute=TWO))
    assert (loaded.info.n_ctx, loaded.info.max_input_tokens) == (8192, 64)
    assert any("8192" in line and "64 tokens per text" in line for line in said)


def test_aliases_come_before_the_files_name(load, tmp_path):
    config = ModelConfig(aliases=("first", "second"), compute=TWO)
    loaded, _ = load(write_tiny_encoder(tmp_path / "m.gguf"), config)
    assert (loaded.info.name, loaded.info.aliases) == ("first", ("second", "m"))


def test_a_bf16_copy_is_made_once_and_made_again_for_a_changed_file(load, tmp_path):
    config = ModelConfig(compute=dataclasses.replace(IN_LLAMA, weights="bf16"), warmup=False)
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="f16")
    loaded, said = load(path, config)
    assert (loaded.info.file_type, loaded.info.weights_type) == ("F16", "BF16")
    load(path, config)
    assert sum("BF16 copy" in line for line in said) == 1
    load(write_tiny_encoder(path, outtype="f16", seed=2), config)
    assert sum("BF16 copy" in line for line in said) == 2
    copies = sorted((tmp_path / "cache" / "bf16").iterdir())
    assert [copy.suffix for copy in copies] == [".gguf", ".gguf"]


def test_a_damaged_bf16_copy_is_written_again(load, tmp_path):
    config = ModelConfig(compute=dataclasses.replace(IN_LLAMA, weights="bf16"), warmup=False)
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="f16")
    load(path, config)
    copy = next((tmp_path / "cache" / "bf16").iterdir())
    copy.write_bytes(copy.read_bytes()[:100])
    _, said = load(path, config)
    assert any("damaged" in line for line in said)


def test_a_decoder_is_read_at_its_last_token(load, tmp_path):
    loaded, _ = load(write_tiny_decoder(tmp_path / "d.gguf"), ModelConfig(compute=TWO))
    assert (loaded.info.causal, loaded.info.pooling) == (True, Pooling.LAST)


def test_no_pooling_in_the_file_means_one_vector_per_token_and_is_reported(load, tmp_path):
    loaded, said = load(write_tiny_encoder(tmp_path / "m.gguf", pooling=None), ModelConfig(compute=TWO))
    assert loaded.info.pooling is Pooling.NONE
    assert any("--pooling" in line for line in said)


def test_rank_without_a_head_is_refused(load, tmp_path):
    with pytest.raises(ModelFileError, match="no rank head"):
        load(write_tiny_encoder(tmp_path / "m.gguf"), ModelConfig(pooling=Pooling.RANK, compute=TWO))


def test_a_context_without_room_for_a_text_is_refused(load, tmp_path):
    with pytest.raises(ConfigError, match=r"\b2 tokens.*\b64\b"):
        load(write_tiny_encoder(tmp_path / "m.gguf"), ModelConfig(n_ctx=2, compute=TWO))


def test_if_the_copy_cannot_be_written_the_file_runs_unchanged_unless_bf16_is_configured(tmp_path, monkeypatch):
    monkeypatch.setattr("gguf_embed.engines.llama.driver.computes_bf16_faster", lambda use_amx: True)
    path = write_tiny_encoder(tmp_path / "m.gguf", outtype="f16")
    blocked = tmp_path / "a file"
    blocked.write_text("not a folder")
    said = []

    def load_with(weights):
        config = ModelConfig(compute=dataclasses.replace(IN_LLAMA, weights=weights), warmup=False)
        return load_model(LocatedModel(path, "m"), config, blocked, Metrics(), said.append)

    loaded = load_with("auto")
    loaded.close()
    assert loaded.info.weights_type == "F16"
    assert "cannot be written" in said[-1]
    assert "m.gguf" in said[-1]
    with pytest.raises(ModelFileError, match="cannot be written"):
        load_with("bf16")


def test_the_kernels_are_named_only_when_something_was_computed(load, tmp_path, monkeypatch):
    monkeypatch.setattr("gguf_embed.engines.llama.driver.api.n_amx_multiplications", lambda: 0)
    path = write_tiny_encoder(tmp_path / "m.gguf")
    named = [
        load(path, ModelConfig(compute=IN_LLAMA, warmup=warmup))[0].scheduler.plan.kernels for warmup in (True, False)
    ]
    assert named == ["ggml", "unchecked"]


def tokenizer_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(("tokenize", "offsets"))]


def test_closing_a_model_ends_its_threads(tmp_path):
    model = load_tiny(tmp_path)
    before = tokenizer_threads()
    for threads in (model.threads.long, model.threads.short, model.threads.offsets):
        asyncio.run(threads.run(lambda: model.tokenizer.encode("hello")))
    assert len(tokenizer_threads()) == len(before) + 3
    model.close()
    assert tokenizer_threads() == before


def test_a_model_is_freed_when_the_last_text_has_been_tokenized(tmp_path, monkeypatch):
    """Freeing it earlier would crash the process."""
    model = load_tiny(tmp_path)
    may_end, is_freed, engine = threading.Event(), threading.Event(), model.loaded.engine
    free = engine.close
    monkeypatch.setattr(type(engine), "close", lambda self: (free(), is_freed.set()))
    with pytest.raises(EngineFailure, match="tokenizing took over"):
        asyncio.run(model.threads.short.run(lambda: may_end.wait(10), Patience(0.1, "tokenizing")))
    model.close()
    assert not is_freed.wait(0.2)
    may_end.set()
    assert is_freed.wait(10)


def load_tiny(folder: Path) -> LoadedModel:
    config = ModelConfig(compute=IN_LLAMA, warmup=False)
    located = LocatedModel(write_tiny_encoder(folder / "m.gguf"), "m")
    return load_model(located, config, folder / "cache", Metrics(), lambda line: None)
