"""Measures, in a fraction of a second at warm-up, how this machine computes batches best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from gguf_embed.engines.base import Engine
from gguf_embed.engines.llama.context import LlamaContextSpec
from gguf_embed.types import OutputSpec

TEXT_TOKENS = 21
"""The length of the texts to measure with: a typical query or short sentence."""

BUDGETS_TEXTS = (3, 6, 12)  # 63 to 252 tokens
FLASH_TEXTS = (1, 2, 3, 6)  # batches from which flash attention may be faster
TOO_SLOW_S = 0.025  # if one text takes longer, keep the defaults: measuring would take over a second


@dataclass(frozen=True, slots=True)
class Calibration:
    """What was chosen, and whether it was measured."""

    batch_tokens: int = 256
    flash_min_tokens: int = 0  # use flash attention in batches of at least this many tokens
    alone_threads: int = 1  # for a batch that has the machine to itself
    tokens_per_s: float = 1000.0  # of one thread
    measured: bool = False


@dataclass(frozen=True, slots=True)
class Measurements:
    """Best times in seconds per batch of n texts of `TEXT_TOKENS` tokens, on one thread unless stated otherwise."""

    with_flash_s: Mapping[int, float] = field(default_factory=dict)
    without_flash_s: Mapping[int, float] = field(default_factory=dict)
    alone_s: Mapping[int, float] = field(default_factory=dict)  # one text, by number of threads


def decide(measured: Measurements) -> Calibration:
    """Choose the batch size with the most tokens per second, the use of flash attention, and `alone_threads`. Pure."""
    rates = {n: n * TEXT_TOKENS / measured.with_flash_s[n] for n in BUDGETS_TEXTS}
    n_texts = max(rates, key=lambda n: rates[n])
    return Calibration(
        batch_tokens=-(-n_texts * TEXT_TOKENS // 32) * 32,
        flash_min_tokens=_flash_from(measured),
        alone_threads=min(measured.alone_s, key=lambda n: measured.alone_s[n]),
        tokens_per_s=rates[n_texts],
        measured=True,
    )


def _flash_from(measured: Measurements) -> int:
    """The smallest batch from which flash attention is never slower, in tokens; 0 if it never is."""
    slower = [n for n, seconds in measured.without_flash_s.items() if seconds < measured.with_flash_s[n]]
    if not slower:
        return 0
    next_up = [n for n in measured.without_flash_s if n > max(slower)]
    return (min(next_up) if next_up else max(slower) + 1) * TEXT_TOKENS


def calibrate(
    engine: Engine, output: OutputSpec, n_threads: int, tokens: Sequence[int], clock: Callable[[], float]
) -> Calibration:
    """Measure and decide, on the calling thread. `tokens` is one valid text of `TEXT_TOKENS` ids.

    Takes about 0.2 s for a small encoder. A model that needs over 25 ms for one text keeps the defaults.
    """
    room = max(BUDGETS_TEXTS)
    specs = {flash: LlamaContextSpec(output, room * TEXT_TOKENS, room, flash) for flash in (True, False)}
    contexts = {flash: engine.open_context(spec) for flash, spec in specs.items()}
    try:

        def best_s(n_texts: int, flash: bool, threads: int, turns: int = 2) -> float:
            batch, times = [tokens] * n_texts, []
            for _ in range(turns):
                started_s = clock()
                contexts[flash].embed(batch, threads)
                times.append(clock() - started_s)
            return min(times)

        if best_s(1, True, 1, turns=2) > TOO_SLOW_S:
            return Calibration(alone_threads=n_threads)
        with_flash = {n: best_s(n, True, 1) for n in sorted({*BUDGETS_TEXTS, *FLASH_TEXTS})}
        without_flash = {n: best_s(n, False, 1) for n in FLASH_TEXTS}
        quicker = without_flash[1] >= with_flash[1]
        alone = {n: best_s(1, quicker, n, turns=5) for n in _thread_counts(n_threads)}
        return decide(Measurements(with_flash, without_flash, alone))
    finally:
        for context in contexts.values():
            context.close()


def _thread_counts(n_threads: int) -> list[int]:
    """1, 2, 4, … and all."""
    return sorted({n_threads, *(2**k for k in range(n_threads.bit_length()) if 2**k <= n_threads)})
