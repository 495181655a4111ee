"""The event loop never runs a tokenizer that a file can make endless, and each model has its own threads for it."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from gguf_embed.config import ComputeConfig, ModelConfig
from gguf_embed.engines.llama.codec import LlamaCodec
from gguf_embed.types import Pooling, RerankRequest
from tests.gguf_models import write_tiny_encoder
from tests.running import Running, running


@pytest.fixture
def service(tmp_path):
    compute = ComputeConfig(n_threads=1, engine="llama")
    config = ModelConfig(pooling=Pooling.MEAN, tokenizer="llama", warmup=False, compute=compute)
    with running(write_tiny_encoder(tmp_path / "m.gguf"), config, tmp_path, {"document": "title: "}) as opened:
        opened.embed("hello")  # the model is loaded now
        yield opened


def rerank_cut(service: Running, *, use_prompts: bool) -> None:
    request = RerankRequest("cat", ("dog cat " * 30,), method="embedding", max_document_tokens=8)
    service.run(service.service.rerank(replace(request, use_prompts=use_prompts)))


@pytest.mark.parametrize(
    "ask",
    [
        lambda service: service.embed("hello", "one two three"),
        lambda service: service.embed("hello " * 40, truncate=True, max_tokens=8),
        lambda service: service.embed("hello " * 40, truncate=True, cut_start=True, max_tokens=8),
        lambda service: service.embed("hello", return_tokens=True),
        lambda service: rerank_cut(service, use_prompts=False),
        lambda service: rerank_cut(service, use_prompts=True),
        lambda service: service.run(
            service.service.tokenize(("hello",), model=None, add_special=True, parse_special=True)
        ),
        lambda service: service.run(service.service.text_tokens(["hello"], model=None, add_special=True)),
    ],
)
def test_llama_cpps_tokenizer_never_runs_on_the_event_loop(service, monkeypatch, ask):
    seen = set()
    tokenize = LlamaCodec.tokenize

    def watched(codec, text, **options):
        seen.add(threading.current_thread())
        return tokenize(codec, text, **options)

    monkeypatch.setattr(LlamaCodec, "tokenize", watched)
    ask(service)
    assert seen
    assert threading.main_thread() not in seen
