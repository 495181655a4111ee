"""The llama.cpp engine on tiny models with random weights.

Their vectors are compared with a numpy BERT in tests/convert/test_convert.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from gguf_embed.engines.llama import context as llama_context
from gguf_embed.engines.llama import engine as llama
from gguf_embed.engines.llama.engine import LlamaContext, LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import EngineFailure, ModelFileError
from gguf_embed.preprocessing.tokenizers import choose_tokenizer
from gguf_embed.types import Pooling
from tests.engines.contexts import context_spec
from tests.gguf_models import (
    CLS,
    DECODER_BOS,
    DECODER_EOS,
    MASK,
    PAD,
    SEP,
    SPECIALS,
    TINY_VOCABULARY,
    UNK,
    write_tiny_decoder,
    write_tiny_encoder,
)

CLOSE = 1e-5
"""Absolute, for F32 weights and the same kernels: rows are about 1 in size."""

SAME = 0.99999
"""Cosine, where llama.cpp takes other kernels or sums in another order: flash attention does from 64 tokens a call."""

ENCODER_TEXTS = [[CLS, 5, 6, 7, SEP], [CLS, 8, SEP], [CLS, *[9, 10, 11, 12] * 5, SEP]]
DECODER_TEXTS = [[104, 101, 108, DECODER_EOS], [116, DECODER_EOS], [*range(40, 70), DECODER_EOS]]
PICK: dict[Pooling, Callable[[np.ndarray], np.ndarray]] = {
    Pooling.MEAN: lambda rows: rows.mean(axis=0),
    Pooling.CLS: lambda rows: rows[0],
    Pooling.LAST: lambda rows: rows[-1],
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Iterator[LlamaEngine]:
    path = write_tiny_encoder(tmp_path_factory.mktemp("encoder") / "encoder.gguf")
    with closing(LlamaEngine(LlamaEngineConfig(path))) as engine:
        yield engine


@pytest.fixture(scope="module")
def decoder(tmp_path_factory) -> Iterator[LlamaEngine]:
    path = write_tiny_decoder(tmp_path_factory.mktemp("decoder") / "decoder.gguf", n_ctx=256)
    with closing(LlamaEngine(LlamaEngineConfig(path))) as engine:
        yield engine


@pytest.fixture(params=["encoder", "decoder"])
def model(request) -> tuple[LlamaEngine, list[list[int]]]:
    """An engine of each family and texts for it."""
    texts = {"encoder": ENCODER_TEXTS, "decoder": DECODER_TEXTS}[request.param]
    return request.getfixturevalue(request.param), texts


def small_context(
    engine: LlamaEngine, pooling: Pooling, *, flash_attention: bool = False, max_sequences: int = 8
) -> closing[LlamaContext]:
    return closing(engine.open_context(context_spec(pooling, 64, max_sequences, flash_attention)))


def embed(
    engine: LlamaEngine,
    texts: Sequence[Sequence[int]],
    pooling: Pooling,
    *,
    n_threads: int = 1,
    flash_attention: bool = False,
) -> np.ndarray:
    with small_context(engine, pooling, flash_attention=flash_attention) as context:
        return context.embed(texts, n_threads).matrix


def cosines(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (some * others).sum(axis=1) / (np.linalg.norm(some, axis=1) * np.linalg.norm(others, axis=1))


@pytest.mark.parametrize("pooling", PICK)
def test_pooled_rows_agree_with_the_token_rows(model, pooling):
    engine, texts = model
    token_rows = embed(engine, texts, Pooling.NONE)
    ends = np.cumsum([len(text) for text in texts])
    parts = np.split(token_rows, ends[:-1])
    pooled = embed(engine, texts, pooling)
    assert (pooled.dtype, pooled.shape) == (np.float32, (len(texts), 32))
    np.testing.assert_allclose(pooled, np.stack([PICK[pooling](part) for part in parts]), atol=CLOSE)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.NONE])
def test_with_flash_attention_a_text_alone_equals_itself_in_a_small_batch(model, pooling):
    engine, texts = model
    alone = np.concatenate([embed(engine, [text], pooling, flash_attention=True) for text in texts])
    np.testing.assert_allclose(embed(engine, texts, pooling, flash_attention=True), alone, atol=1e-6)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.NONE])
def test_without_flash_attention_the_order_of_sums_is_all_that_a_batch_changes(model, pooling):
    engine, texts = model
    alone = np.concatenate([embed(engine, [text], pooling) for text in texts])
    assert cosines(embed(engine, texts, pooling), alone).min() > SAME


def test_two_threads_compute_what_one_does(model):
    engine, texts = model
    two = embed(engine, texts, Pooling.MEAN, n_threads=2)
    np.testing.assert_allclose(two, embed(engine, texts, Pooling.MEAN), atol=CLOSE)


@pytest.mark.parametrize("pooling", [Pooling.MEAN, Pooling.LAST])
def test_flash_attention_gives_nearly_the_same(model, pooling):
    engine, texts = model
    flash = embed(engine, texts, pooling, flash_attention=True)
    assert cosines(flash, embed(engine, texts, pooling)).min() > 0.9999


def test_a_batch_leaves_nothing_behind_for_the_next(model):
    engine, texts = model
    with small_context(engine, Pooling.LAST) as context:
        first = context.embed(texts, 1).matrix
        context.embed([[9] * 60], 1)
        np.testing.assert_array_equal(context.embed(texts, 1).matrix, first)


def test_as_many_texts_as_llama_cpp_takes_run_together(model):
    engine, texts = model
    with closing(engine.open_context(context_spec(Pooling.MEAN, 768, 256))) as context:
        rows = context.embed([texts[1]] * 256, 1).matrix
    assert cosines(rows, embed(engine, [texts[1]], Pooling.MEAN)).min() > SAME


def test_a_long_text_computed_in_parts_equals_the_whole(decoder, monkeypatch):
    text = [number % 250 for number in range(200)]
    spec = context_spec(Pooling.LAST, 256, 1, False)
    with closing(decoder.open_context(spec)) as context:
        whole = context.embed([text], 1).matrix
    monkeypatch.setattr(llama_context, "MAX_UBATCH_TOKENS", 64)
    with closing(decoder.open_context(spec)) as context:
        np.testing.assert_allclose(context.embed([text], 1).matrix, whole, atol=CLOSE)


@pytest.mark.parametrize("pooling", [Pooling.NONE, Pooling.MEAN, Pooling.CLS])
def test_rows_computed_in_parts_equal_those_computed_at_once(decoder, monkeypatch, pooling):
    texts = [[number % 250 for number in range(length)] for length in (3, 100, 1, 64, 85)]
    spec = context_spec(pooling, 256, 8, False)
    with closing(decoder.open_context(spec)) as context:
        whole = context.embed(texts, 1).matrix
    calls: list[int] = []
    decode = llama.api.decode
    monkeypatch.setattr(llama.api, "decode", lambda c, batch: (calls.append(batch.n_tokens), decode(c, batch))[1])
    monkeypatch.setattr(llama_context, "MAX_UBATCH_TOKENS", 64)
    with closing(decoder.open_context(spec)) as context:
        for _ in range(2):
            np.testing.assert_allclose(context.embed(texts, 1).matrix, whole, atol=CLOSE)
    assert calls == [64, 64, 64, 61] * 2  # each call makes logits over the whole vocabulary for its tokens


def test_contexts_of_one_model_run_at_the_same_time(encoder):
    def repeat(_thread: int) -> list[np.ndarray]:
        with small_context(encoder, Pooling.MEAN) as context:
            return [context.embed(ENCODER_TEXTS, 1).matrix for _ in range(20)]

    expected = embed(encoder, ENCODER_TEXTS, Pooling.MEAN)
    with ThreadPoolExecutor(2) as threads:
        for rows in [rows for repeated in threads.map(repeat, range(2)) for rows in repeated]:
            np.testing.assert_array_equal(rows, expected)


def test_rows_stay_valid_after_the_next_batch_and_after_closing(encoder):
    with small_context(encoder, Pooling.NONE) as context:
        rows = context.embed([ENCODER_TEXTS[0]], 1).matrix
        kept = rows.copy()
        context.embed([ENCODER_TEXTS[2]], 1)
    np.testing.assert_array_equal(rows, kept)


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([], "0 texts"),
        ([[CLS]] * 5, "5 texts in a context for 4"),
        ([[]], "without tokens"),
        ([[CLS, SEP], []], "without tokens"),
        ([[CLS] * 50, [CLS] * 51], "101 tokens.* takes 100"),
        ([[CLS] * 65], "longest text 65.*the model 64"),
        ([[CLS, len(TINY_VOCABULARY)]], "token id"),
        ([[CLS], [-1]], "token id"),
    ],
)
def test_batches_that_llama_cpp_would_abort_on_are_refused_and_the_context_still_works(encoder, batch, reason):
    with closing(encoder.open_context(context_spec(Pooling.MEAN, 100, 4, False))) as context:
        with pytest.raises(EngineFailure, match=reason):
            context.embed(batch, 1)
        rows = context.embed(ENCODER_TEXTS, 1).matrix
    np.testing.assert_allclose(rows, embed(encoder, ENCODER_TEXTS, Pooling.MEAN), atol=CLOSE)


@pytest.mark.parametrize("max_sequences", [0, 257])
def test_a_context_for_more_sequences_than_llama_cpp_takes_is_our_own_bug(encoder, max_sequences):
    with pytest.raises(ValueError, match="1 to 256"):
        encoder.open_context(context_spec(Pooling.MEAN, 64, max_sequences))


def test_rank_pooling_without_a_rank_head_is_refused(encoder):
    assert encoder.info.n_cls_out == 0
    with pytest.raises(ModelFileError, match="no rank head"):
        encoder.open_context(context_spec(Pooling.RANK, 64, 4))


def test_a_rank_head_scores_each_text(tmp_path):
    path = write_tiny_encoder(tmp_path / "reranker.gguf", rank_head=True, pooling=Pooling.RANK)
    with closing(LlamaEngine(LlamaEngineConfig(path, rank_head=True))) as engine:
        assert (engine.info.n_cls_out, engine.info.pooling) == (1, Pooling.RANK)
        scores = embed(engine, ENCODER_TEXTS, Pooling.RANK)
        alone = np.concatenate([embed(engine, [text], Pooling.RANK) for text in ENCODER_TEXTS])
    assert (scores.dtype, scores.shape) == (np.float32, (3, 1))
    # ggml looks GELU up by float16, so sums in another order may give another entry: 4e-5 on AMD's Zen 4
    np.testing.assert_allclose(scores, alone, atol=1e-4)
    assert len(np.unique(scores)) == 3


@pytest.mark.parametrize(("outtype", "least"), [("f16", 0.9999), ("bf16", 0.999), ("q8_0", 0.998)])
@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_narrower_weights_stay_close_to_f32(tmp_path, family, outtype, least):
    write, texts = {
        "encoder": (write_tiny_encoder, ENCODER_TEXTS),
        "decoder": (write_tiny_decoder, DECODER_TEXTS),
    }[family]
    rows = []
    for kind in ("f32", outtype):
        with closing(LlamaEngine(LlamaEngineConfig(write(tmp_path / f"{kind}.gguf", outtype=kind)))) as engine:
            rows.append(embed(engine, texts, Pooling.MEAN))
    assert cosines(*rows).min() > least


def test_the_engine_knows_its_model(encoder, decoder):
    info = encoder.info
    assert (info.architecture, info.causal, info.pooling) == ("bert", False, Pooling.MEAN)
    assert (info.n_embd, info.n_vocab, info.n_ctx_train) == (32, len(TINY_VOCABULARY), 64)
    assert (info.bos_token, info.eos_token) == ("[CLS]", "[SEP]")
    assert info.n_params > 20_000
    assert info.size_bytes == 4 * info.n_params
    assert (decoder.info.architecture, decoder.info.causal, decoder.info.pooling) == ("qwen3", True, Pooling.LAST)


def test_a_file_that_names_no_pooling_has_none(tmp_path):
    with closing(LlamaEngine(LlamaEngineConfig(write_tiny_encoder(tmp_path / "m.gguf", pooling=None)))) as engine:
        assert engine.info.pooling is None


def test_the_vocabulary_is_the_file_s(encoder, decoder):
    vocabulary = encoder.codec.vocabulary()
    assert vocabulary.kind == "wpm"
    assert vocabulary.entries[:5] == SPECIALS
    assert vocabulary.entries[5] == "\u2581the"
    assert vocabulary.entries[TINY_VOCABULARY.index("##ing")] == "ing"
    ids = (vocabulary.bos_id, vocabulary.sep_id, vocabulary.unk_id, vocabulary.pad_id, vocabulary.mask_id)
    assert ids == (CLS, SEP, UNK, PAD, MASK)
    assert (vocabulary.adds_bos, vocabulary.adds_eos) == (True, True)
    assert vocabulary.lowercase is None
    other = decoder.codec.vocabulary()
    assert (other.kind, other.bos_id, other.eos_id) == ("bpe", DECODER_BOS, DECODER_EOS)
    assert (other.adds_bos, other.adds_eos) == (False, True)


@pytest.mark.parametrize(
    ("text", "add_special", "parse_special", "tokens"),
    [
        ("Hello world", True, True, [CLS, 6, 7, SEP]),
        ("hello world", False, True, [6, 7]),
        ("the [SEP] cat", False, True, [5, SEP, 8]),
        ("", True, True, [CLS, SEP]),
        ("", False, True, []),
    ],
)
def test_tokenize_follows_the_vocabulary(encoder, text, add_special, parse_special, tokens):
    assert encoder.codec.tokenize(text, add_special=add_special, parse_special=parse_special) == tokens


def test_a_special_token_s_name_is_ordinary_text_unless_parsed(encoder):
    tokens = encoder.codec.tokenize("[SEP]", add_special=False, parse_special=False)
    assert SEP not in tokens
    assert tokens


@pytest.mark.parametrize("text", ["hello wörld 中", "the  two\nlines\t\x00 end", "🦙" * 50, "\ud800 alone"])
def test_tokens_turn_back_into_the_text(decoder, text):
    tokens = decoder.codec.tokenize(text, add_special=False, parse_special=True)
    readable = text.encode("utf-8", "replace").decode()
    assert decoder.codec.detokenize(tokens) == readable
    assert b"".join(map(decoder.codec.token_bytes, tokens)).decode() == readable


def test_special_tokens_are_written_out(encoder, decoder):
    assert encoder.codec.token_bytes(CLS) == b"[CLS]"
    assert encoder.codec.detokenize([CLS, 6, 7, SEP]) == "[CLS] hello world[SEP]"
    assert decoder.codec.token_bytes(DECODER_EOS) == b"<|end|>"


def test_a_token_may_be_a_part_of_a_character(decoder):
    first, second = decoder.codec.tokenize("é", add_special=False, parse_special=True)
    assert decoder.codec.token_bytes(first) + decoder.codec.token_bytes(second) == "é".encode()
    assert decoder.codec.detokenize([first]) == "\ufffd"


def not_a_model(good: bytes) -> bytes:
    return b"hello " * 100


def cut_in_the_weights(good: bytes) -> bytes:
    return good[: len(good) // 2]


def cut_in_the_metadata(good: bytes) -> bytes:
    return good[:2000]


def of_a_later_version(good: bytes) -> bytes:
    return good[:4] + b"\xff" * 4 + good[8:]


def empty(good: bytes) -> bytes:
    return b""


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (not_a_model, "invalid magic"),
        (cut_in_the_weights, "corrupted or incomplete"),
        (cut_in_the_metadata, "failed to read key-value pairs"),
        (of_a_later_version, "version"),
        (empty, "failed to read magic"),
    ],
)
def test_a_damaged_file_is_refused_with_llama_cpp_s_reason_and_no_noise(tmp_path, capfd, damage, reason):
    path = tmp_path / "damaged.gguf"
    path.write_bytes(damage(write_tiny_encoder(tmp_path / "good.gguf").read_bytes()))
    with pytest.raises(ModelFileError, match=rf"cannot load damaged\.gguf: .*{reason}"):
        LlamaEngine(LlamaEngineConfig(path))
    assert capfd.readouterr() == ("", "")


def test_a_missing_file_is_refused(tmp_path, capfd):
    with pytest.raises(ModelFileError, match="No such file"):
        LlamaEngine(LlamaEngineConfig(Path(tmp_path / "missing.gguf")))
    assert capfd.readouterr() == ("", "")


def test_loading_and_running_print_nothing(tmp_path, capfd):
    with closing(LlamaEngine(LlamaEngineConfig(write_tiny_encoder(tmp_path / "m.gguf")))) as engine:
        embed(engine, ENCODER_TEXTS, Pooling.MEAN)
    assert capfd.readouterr() == ("", "")


def test_closing_twice_is_harmless(tmp_path):
    engine = LlamaEngine(LlamaEngineConfig(write_tiny_encoder(tmp_path / "m.gguf")))
    context = engine.open_context(context_spec(Pooling.MEAN, 64, 4))
    for _ in range(2):
        context.close()
    with pytest.raises(EngineFailure, match="closed"):
        context.embed([[CLS, SEP]], 1)
    for _ in range(2):
        engine.close()


def test_a_decoder_without_causal_attention_computes_long_texts_whole(tmp_path):
    """llama.cpp ends the process where such a text is given in parts."""
    path = write_tiny_decoder(tmp_path / "ahead.gguf", n_ctx=1024, causal=False)
    text = [7 + i % 90 for i in range(700)]
    with closing(LlamaEngine(LlamaEngineConfig(path))) as engine:
        with closing(engine.open_context(context_spec(Pooling.LAST, 1024, 8, False))) as context:
            together = context.embed([text, text[:5]], 1).matrix
            alone = context.embed([text], 1).matrix
        with closing(engine.open_context(context_spec(Pooling.NONE, 1024, 8, False))) as context:
            rows = context.embed([text], 1).matrix
            changed_end = context.embed([[*text[:-1], 3]], 1).matrix
    np.testing.assert_allclose(together[:1], alone, atol=1e-5)
    np.testing.assert_allclose(alone[0], rows[-1], atol=1e-4)
    assert not np.allclose(rows[0], changed_end[0], atol=1e-6)  # the first token sees the last


def test_decomposed_characters_are_composed_as_the_original_does(decoder):
    """Qwen's tokenizer.json begins with NFC; llama.cpp leaves it out."""
    composed, decomposed = "caf\u00e9 \ud55c", "cafe\u0301 \u1112\u1161\u11ab"
    own = choose_tokenizer(decoder.codec, None, "auto")
    assert own.encode(decomposed) == own.encode(composed)
    as_llama = choose_tokenizer(decoder.codec, None, "llama")
    assert as_llama.encode(decomposed) != as_llama.encode(composed)
