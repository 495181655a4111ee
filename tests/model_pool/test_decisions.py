"""Pure decisions of the registry: processors, weights, workers and the sizes of contexts."""

import pytest

from gguf_embed.engines.cpu_count import cpu_quota
from gguf_embed.engines.llama.bf16_copy import wants_bf16
from gguf_embed.engines.llama.driver import affordable_workers, small_context_tokens


@pytest.mark.parametrize(
    ("line", "processors"),
    [("200000 100000\n", 2), ("150000 100000", 2), ("1000 100000", 1), ("max 100000\n", None), ("", None), ("7", None)],
)
def test_a_cpu_quota_counts_whole_processors(line, processors):
    assert cpu_quota(line) == processors


@pytest.mark.parametrize(
    ("choice", "file_type", "on_gpu", "fast", "wanted"),
    [
        ("auto", "F16", False, True, True),
        ("auto", "F32", False, True, True),
        ("auto", "F16", False, False, False),
        ("auto", "F16", True, True, False),
        ("auto", "BF16", False, True, False),
        ("auto", "Q8_0", False, True, False),
        ("bf16", "Q8_0", False, True, False),  # never below, nor a copy of, what is quantized
        ("bf16", "F16", False, False, True),
        ("file", "F16", False, True, False),
    ],
)
def test_only_float_weights_are_run_as_bf16(choice, file_type, on_gpu, fast, wanted):
    assert wants_bf16(choice, file_type, on_gpu, fast) is wanted


@pytest.mark.parametrize(("choice", "file_type", "wanted"), [
    ("auto", "F32", False),
    ("auto", "F16", True),
    ("bf16", "F32", True),
])  # fmt: skip
def test_a_reranker_in_f32_is_converted_only_if_configured(choice, file_type, wanted):
    assert wants_bf16(choice, file_type, False, True, scores=True) is wanted


@pytest.mark.parametrize(
    ("n_threads", "n_logits", "workers"), [(2, 0, 2), (64, 0, 64), (2, 151_000, 2), (64, 151_000, 6), (8, 10**8, 1)]
)
def test_decoders_with_large_vocabularies_get_fewer_workers(n_threads, n_logits, workers):
    assert affordable_workers(n_threads, 256, n_logits) == workers


@pytest.mark.parametrize(
    ("longest", "n_logits", "tokens"),
    [(512, 0, 512), (8192, 0, 1024), (100, 0, 256), (32768, 262_144, 512), (32768, 10**8, 256)],
)
def test_every_worker_takes_texts_up_to_what_its_context_may_cost(longest, n_logits, tokens):
    assert small_context_tokens(256, longest, 2, n_logits) == tokens
