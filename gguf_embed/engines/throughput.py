"""Measures how many tokens per second an engine computes with several batches at once."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from itertools import cycle
from typing import TypeVar

from gguf_embed.engines.base import BatchLimits, EngineContext

_Key = TypeVar("_Key")

TEXT_TOKENS = (10, 21, 21, 40, 120)
"""The lengths of the texts to compare with: queries, sentences and a short passage."""


def tokens_per_s(
    open_context: Callable[[], EngineContext],
    batch: Sequence[Sequence[int]],
    n_at_once: int,
    n_threads: int,
    measure_s: float,
) -> float:
    """Run the batch again and again in `n_at_once` threads, each with its own context and `n_threads`.

    Each computes the batch once before the clock starts, so that memory is allocated and caches are filled. Raises
    what a context raises.
    """
    n_tokens = sum(map(len, batch))
    rates = [0.0] * n_at_once
    failures: list[BaseException] = []
    ready = threading.Barrier(n_at_once)

    def work(number: int, context: EngineContext) -> None:
        try:
            context.embed(batch, n_threads)
            ready.wait()
            n_done, elapsed_s, started_s = 0, 0.0, time.perf_counter()
            while elapsed_s < measure_s:
                context.embed(batch, n_threads)
                n_done += n_tokens
                elapsed_s = time.perf_counter() - started_s
            rates[number] = n_done / elapsed_s
        except threading.BrokenBarrierError:
            pass  # another thread has failed
        except BaseException as error:
            failures.append(error)
            ready.abort()

    with ExitStack() as stack:
        threads = []
        for number in range(n_at_once):
            context = open_context()
            stack.callback(context.close)
            threads.append(threading.Thread(target=work, args=(number, context)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    if failures:
        raise failures[0]
    return sum(rates)


def best_rates(
    rate: Callable[[_Key], float], choices: Iterable[_Key], n_rounds: int, max_s: float = math.inf
) -> dict[_Key, float]:
    """The best rate of each choice in some rounds, because another process can only make a choice look slower.

    No round begins when `max_s` have passed: what takes so long is hardly disturbed by anything short.
    """
    rates = dict.fromkeys(choices, 0.0)
    started_s = time.monotonic()
    for number in range(n_rounds):
        if number and time.monotonic() - started_s > max_s:
            break
        for choice in rates:
            rates[choice] = max(rates[choice], rate(choice))
    return rates


def sample_batch(lengths: Sequence[int], n_vocab: int) -> list[list[int]]:
    """Token sequences of these lengths, with ids spread over the vocabulary."""
    numbered = enumerate(lengths)
    return [[(number * 37 + position * 101) % n_vocab for position in range(length)] for number, length in numbered]


def batch_lengths(limits: BatchLimits, longest: int) -> list[int]:
    """The lengths of the texts in a full batch, with `TEXT_TOKENS` in turn; at least one text."""
    lengths: list[int] = []
    for length in cycle(TEXT_TOKENS):
        length = min(length, longest)
        if lengths and (len(lengths) >= limits.max_sequences or sum(lengths) + length > limits.max_tokens):
            break
        lengths.append(length)
    return lengths
