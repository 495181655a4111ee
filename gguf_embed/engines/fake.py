"""A deterministic engine without weights, for tests and load tests. It follows a script of delays and failures, and
records its batches.

A text's rows depend only on its own tokens, never on the rest of the batch. One byte of UTF-8 is one token.
"""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from gguf_embed.engines.base import BatchLimits, ContextSpec, EngineInfo, ExecutionPlan
from gguf_embed.errors import EngineFailure, InvalidRequest, ModelFileError
from gguf_embed.types import DENSE, SCORES, FloatMatrix, OutputSpec, Pooling, Vocabulary
from gguf_embed.vectors import Rows

BOS, EOS = 256, 257
_SPECIALS = {BOS: b"<s>", EOS: b"</s>"}
N_VOCAB = 256 + len(_SPECIALS)
MAX_RECORDED_BATCHES = 10_000


@dataclass(frozen=True, slots=True)
class FakeBatch:
    """The arguments of one call of `embed`, recorded before it does anything."""

    spec: ContextSpec
    texts: tuple[tuple[int, ...], ...]
    n_threads: int
    thread: str  # name of the calling thread

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.texts))


def _run_at_once(_batch: FakeBatch) -> None:
    """The default script: no delay, no failure."""


def _never(_batch: FakeBatch) -> bool:
    return False


@dataclass(frozen=True, slots=True)
class FakeScript:
    """The fake's model facts, and how it treats which batch. The three sets hold token ids."""

    before_batch: Callable[[FakeBatch], object] = _run_at_once  # on the worker thread; may wait, sleep or raise
    poison: frozenset[int] = frozenset()  # a batch with one of these raises `EngineFailure`
    nan: frozenset[int] = frozenset()  # a text with one of these gets rows of NaN
    breaks: Callable[[FakeBatch], bool] = _never  # a context that ran such a batch returns NaN from then on
    deadly: frozenset[int] = frozenset()  # a batch with one of these raises `SystemExit`: the worker dies
    n_embd: int = 8
    n_ctx_train: int = 512
    n_cls_out: int = 0  # more than 0: it has a rank head
    pooling: Pooling = Pooling.MEAN


@dataclass(frozen=True, slots=True)
class FakeContexts:
    """Implements `ContextPlanner`: one context for short texts, one for long ones."""

    max_tokens: int = 32
    max_sequences: int = 8
    long_tokens: int = 128

    def spec(self, output: OutputSpec, n_tokens: int, *, long: bool) -> ContextSpec:
        return (
            ContextSpec(output, self.long_tokens, 1)
            if long
            else ContextSpec(output, self.max_tokens, self.max_sequences)
        )


_LIMITS = BatchLimits(32, 8, 8)
_CONTEXTS = FakeContexts()


def fake_plan(limits: BatchLimits = _LIMITS, n_workers: int = 2, contexts: FakeContexts = _CONTEXTS) -> ExecutionPlan:
    """A plan for the fake engine, a thread per worker."""
    return ExecutionPlan(
        contexts=contexts,
        limits=limits,
        n_workers=n_workers,
        n_threads=n_workers,
        alone_threads=n_workers,
        tokens_per_s=10_000.0,
        kernels="fake",
    )


class FakeCodec:
    """Implements `TextCodec`: one byte of UTF-8 is one token."""

    def vocabulary(self) -> Vocabulary:
        pieces = [bytes([byte]) for byte in range(256)] + list(_SPECIALS.values())
        return Vocabulary(
            kind="none",
            entries=tuple(piece.decode("latin-1") for piece in pieces),
            bos_id=BOS,
            eos_id=EOS,
            adds_bos=True,
            adds_eos=True,
        )

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        encoded = text.encode("utf-8", "replace")
        tokens = _split_specials(encoded) if parse_special else [*encoded]
        return [BOS, *tokens, EOS] if add_special else tokens

    def token_bytes(self, token: int) -> bytes:
        if not 0 <= token < N_VOCAB:
            raise InvalidRequest(f"token id {token} is not in the fake's vocabulary of {N_VOCAB}", "tokens")
        return _SPECIALS.get(token) or bytes([token])

    def detokenize(self, tokens: Sequence[int]) -> str:
        return b"".join(map(self.token_bytes, tokens)).decode("utf-8", "replace")


class FakeEngine:
    """Implements `Engine`. Any thread. `close` raises if a context is still open, so that tests detect leaks."""

    def __init__(self, script: FakeScript | None = None) -> None:
        self.script = script or FakeScript()
        self.codec = FakeCodec()
        self.info = EngineInfo(
            architecture="fake",
            description="fake, no weights",
            n_embd=self.script.n_embd,
            n_vocab=N_VOCAB,
            n_ctx_train=self.script.n_ctx_train,
            n_params=0,
            size_bytes=0,
            pooling=self.script.pooling,
            causal=False,
            n_cls_out=self.script.n_cls_out,
            vocab_type=0,
            bos_token=_SPECIALS[BOS].decode(),
            eos_token=_SPECIALS[EOS].decode(),
        )
        self.batches: deque[FakeBatch] = deque(maxlen=MAX_RECORDED_BATCHES)  # appending is atomic
        self.n_opened_contexts = 0  # in total
        self._lock = threading.Lock()
        self._n_open = 0

    @property
    def n_open_contexts(self) -> int:
        return self._n_open

    def open_context(self, spec: ContextSpec) -> FakeContext:
        if spec.output.kind == SCORES and not self.info.n_cls_out:
            raise ModelFileError("the fake has no rank head: script n_cls_out")
        with self._lock:
            self._n_open += 1
            self.n_opened_contexts += 1
        return FakeContext(self, spec)

    def close_context(self) -> None:
        """Called by a context when it closes."""
        with self._lock:
            self._n_open -= 1

    def close(self) -> None:
        if self._n_open:
            raise RuntimeError(f"{self._n_open} contexts of the fake engine are still open")


class FakeContext:
    """Implements `EngineContext`. Checks the same sizes as a real context."""

    def __init__(self, engine: FakeEngine, spec: ContextSpec) -> None:
        self.spec = spec
        self._engine = engine
        self._closed = False
        self._is_broken = False

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> Rows:
        record = FakeBatch(self.spec, tuple(map(tuple, batch)), n_threads, threading.current_thread().name)
        self._engine.batches.append(record)
        self._check(record)
        script = self._engine.script
        script.before_batch(record)
        tokens = {token for text in record.texts for token in text}
        if tokens & script.deadly:
            raise SystemExit("the fake engine was told to die")
        if tokens & script.poison:
            raise EngineFailure(f"the fake engine refuses tokens {sorted(tokens & script.poison)}")
        self._is_broken = self._is_broken or script.breaks(record)
        return Rows.join([self._rows_of(text) for text in record.texts])

    def _check(self, batch: FakeBatch) -> None:
        if self._closed:
            raise RuntimeError("a closed context of the fake engine was used")
        if not 1 <= len(batch.texts) <= self.spec.max_sequences:
            raise EngineFailure(f"a batch of {len(batch.texts)} texts in a context for {self.spec.max_sequences}")
        longest = max(map(len, batch.texts))
        if not all(batch.texts) or batch.n_tokens > self.spec.max_tokens or longest > self._engine.info.n_ctx_train:
            raise EngineFailure(
                f"a batch of {batch.n_tokens} tokens, the longest text {longest}: this context takes "
                f"{self.spec.max_tokens}, the model {self._engine.info.n_ctx_train}, and every text needs a token"
            )
        if not all(0 <= token < N_VOCAB for text in batch.texts for token in text):
            raise EngineFailure(f"a token id outside 0..{N_VOCAB - 1} reached the engine")

    def _rows_of(self, text: tuple[int, ...]) -> Rows:
        """The rows of one text: float32[n_tokens, n_embd] for token output, else float32[1, n_embd or n_cls_out]."""
        script, output = self._engine.script, self.spec.output
        rows = token_rows(text, script.n_embd)
        if self._is_broken or script.nan.intersection(text):
            rows[:] = np.nan
        match output:
            case OutputSpec(kind="tokens"):
                return Rows.per_token(rows, [len(text)])
            case OutputSpec(kind="scores"):
                return Rows.one_each(SCORES, np.resize(rows[:1], (1, script.n_cls_out)))
            case OutputSpec(pooling=Pooling.CLS):
                return Rows.one_each(DENSE, rows[:1])
            case OutputSpec(pooling=Pooling.LAST):
                return Rows.one_each(DENSE, rows[-1:])
            case _:
                mean: FloatMatrix = rows.mean(axis=0, keepdims=True, dtype=np.float32)
                return Rows.one_each(DENSE, mean)

    def close(self) -> None:
        """Safe to call twice."""
        if not self._closed:
            self._closed = True
            self._engine.close_context()


def token_rows(text: Sequence[int], n_embd: int) -> FloatMatrix:
    """The fake model itself, float32[len(text), n_embd]: random numbers seeded by all of the text's tokens."""
    seed = blake2b(np.asarray(text, np.int64).tobytes(), digest_size=8).digest()
    random = np.random.default_rng(int.from_bytes(seed, "little"))
    rows: FloatMatrix = random.standard_normal((len(text), n_embd), dtype=np.float32)
    return rows


def _split_specials(text: bytes) -> list[int]:
    """Bytes to ids; "<s>" and "</s>" become special tokens."""
    tokens: list[int] = []
    for part in re.split(b"(<s>|</s>)", text):
        special = next((token for token, piece in _SPECIALS.items() if piece == part), None)
        tokens += [*part] if special is None else [special]
    return tokens
