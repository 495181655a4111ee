"""Measures how many tokens per second an engine computes with several batches at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress

from gguf_embed.engines.base import EngineContext


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
    n_runs = [0] * n_at_once
    failures: list[Exception] = []
    ready = threading.Barrier(n_at_once + 1)

    def work(number: int) -> None:
        try:
            context = contexts[number]
            context.embed(batch, n_threads)
            ready.wait()
            end_s = time.perf_counter() + measure_s
            while time.perf_counter() < end_s:
                context.embed(batch, n_threads)
                n_runs[number] += 1
        except threading.BrokenBarrierError:
            pass  # another thread has failed
        except Exception as error:
            failures.append(error)
            ready.abort()

    with ExitStack() as stack:
        contexts = [open_context() for _ in range(n_at_once)]
        for context in contexts:
            stack.callback(context.close)
        threads = [threading.Thread(target=work, args=(number,)) for number in range(n_at_once)]
        for thread in threads:
            thread.start()
        with suppress(threading.BrokenBarrierError):
            ready.wait()
        started_s = time.perf_counter()
        for thread in threads:
            thread.join()
        elapsed_s = time.perf_counter() - started_s
    if failures:
        raise failures[0]
    return sum(n_runs) * n_tokens / elapsed_s


def sample_batch(lengths: Sequence[int], n_vocab: int) -> list[list[int]]:
    """Token sequences of these lengths, with ids spread over the vocabulary."""
    numbered = enumerate(lengths)
    return [[(number * 37 + position * 101) % n_vocab for position in range(length)] for number, length in numbered]
