"""Threads and loops end with `close`, in every order and in every kind of process."""

from __future__ import annotations

import asyncio
import copy
import gc
import pickle
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gguf_embed import Embedder
from gguf_embed.embedder.loop_thread import LoopThread
from gguf_embed.errors import EngineFailure, ModelFileError, Unavailable


def started_since(before):
    """Threads that are new; those of the tests' own executors aside."""
    return [thread for thread in threading.enumerate() if thread not in before]


def wait_for_end(before):
    deadline_s = time.monotonic() + 20
    while started_since(before) and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return started_since(before)


def test_no_thread_outlives_close(open_model):
    before = threading.enumerate()
    model = open_model()
    model.embed(["cat"] * 10)
    assert started_since(before)
    model.close()
    assert started_since(before) == []
    model.close()


def test_no_thread_outlives_a_with_block_or_an_error_in_it(models, cache_dir):
    before = threading.enumerate()
    with pytest.raises(ZeroDivisionError), Embedder(models / "encoder.gguf", cache=cache_dir, engine="llama"):
        raise ZeroDivisionError
    assert started_since(before) == []


def test_no_thread_stays_after_a_model_that_cannot_be_opened(models, cache_dir, tmp_path):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((models / "encoder.gguf").read_bytes()[:-1000])
    before = threading.enumerate()
    with pytest.raises(ModelFileError):
        Embedder(broken, cache=cache_dir)
    assert started_since(before) == []


def test_after_close_every_method_says_so(open_model):
    model = open_model()
    model.close()
    calls = (
        lambda: model.embed("cat"),
        lambda: model.tokenize("cat"),
        lambda: model.token_offsets("cat"),
        lambda: model.rerank("cat", ["dog"]),
        lambda: model.info,
        lambda: asyncio.run(model.aembed("cat")),
    )
    for call in calls:
        with pytest.raises(Unavailable, match="this Embedder is closed: create another one"):
            call()


def test_close_waits_for_calls_that_are_running(open_model, monkeypatch):
    model = open_model()
    is_called, call = threading.Event(), LoopThread.call

    def noted_call(self, work):
        future = call(self, work)
        is_called.set()
        return future

    monkeypatch.setattr(LoopThread, "call", noted_call)
    texts = [f"the cat {number}" for number in range(3000)]
    with ThreadPoolExecutor(1) as executor:
        running = executor.submit(model.embed, texts)
        assert is_called.wait(20)
        model.close()
        assert running.done()
        assert running.result().shape == (3000, 32)


def test_two_models_in_one_process_do_not_know_of_each_other(open_model):
    one, other = open_model(), open_model("decoder")
    together = [one.embed("cat"), other.embed("cat")]
    one.close()
    np.testing.assert_allclose(other.embed("cat"), together[1], atol=3e-3)


def test_many_threads_may_call_one_model(tiny):
    texts = [f"the cat {number}" for number in range(40)]
    expected = tiny.embed(texts)
    with ThreadPoolExecutor(8) as executor:
        found = list(executor.map(tiny.embed, texts))
    np.testing.assert_allclose(np.stack(found), expected, atol=3e-3)


def test_the_async_methods_work_on_any_loop(open_model):
    model = open_model()

    async def steps():
        return await asyncio.gather(
            model.aembed("cat"), model.aembed_query("cat"), model.aembed_documents(["cat"]), model.atokenize("cat")
        )

    for _ in range(2):  # each `run` has a new loop
        one, query, documents, tokens = asyncio.run(steps())
        np.testing.assert_allclose(one, query, atol=3e-3)
        np.testing.assert_allclose(documents[0], one, atol=3e-3)
        assert tokens == model.tokenize("cat")


def test_the_plain_methods_work_beside_a_running_loop_as_in_a_notebook(tiny):
    async def cell():
        return tiny.embed("cat")

    np.testing.assert_allclose(asyncio.run(cell()), tiny.embed("cat"), atol=3e-3)


def test_async_with_closes_without_blocking_the_loop(models, cache_dir):
    before = threading.enumerate()

    async def steps():
        async with Embedder(models / "encoder.gguf", cache=cache_dir, engine="llama") as model:
            running = asyncio.create_task(model.aembed([f"the cat {number}" for number in range(2000)]))
            await asyncio.sleep(0.01)
        return running.done(), (await running).shape

    assert asyncio.run(steps()) == (True, (2000, 32))
    assert started_since(before) == []


def test_cancelling_a_call_ends_it(tiny):
    async def steps():
        task = asyncio.create_task(tiny.aembed([f"the cat {number}" for number in range(20_000)]))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await tiny.aembed("cat")

    started_s = time.monotonic()
    assert asyncio.run(steps()).shape == (32,)
    assert time.monotonic() - started_s < 5


def test_a_model_that_is_forgotten_closes_itself(models, cache_dir):
    before = threading.enumerate()
    model = Embedder(models / "encoder.gguf", cache=cache_dir, engine="llama")
    model.itself = model  # only the garbage collector can end it
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
    assert wait_for_end(before) == []


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_model_cannot_be_pickled_or_copied_and_says_why(tiny, copied):
    with pytest.raises(TypeError, match="it owns threads: create one Embedder per process"):
        copied(tiny)


def test_a_loop_that_was_closed_with_cancel_ends_its_callers():
    async def clean_up():
        return None

    is_waiting = threading.Event()

    async def wait():
        is_waiting.set()
        await asyncio.sleep(60)

    loop = LoopThread("Thing", clean_up)
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(loop.run, wait)
        assert is_waiting.wait(20)
        loop.begin_close(cancel=True)
        loop.close()
        with pytest.raises(Unavailable, match="this Thing was closed before the result was there"):
            waiting.result(timeout=5)


PROGRAM = """
import os, signal, sys, threading, time
from gguf_embed import Embedder
how, path, cache = sys.argv[1:]
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
model = Embedder(path, cache=cache)
assert model.embed(["hello"]).shape == (1, 32)
assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
if how == "fork":
    child = os.fork()
    try:
        model.embed("hello")
    except Exception as error:
        assert child == 0
        print(type(error).__name__, error, flush=True)
        model.close()
        with Embedder(path, cache=cache) as own:
            print("own", own.embed("hello").shape, flush=True)
        sys.exit(0)
    _, status = os.waitpid(child, 0)
    print("child", status, model.embed("hello").shape, flush=True)
if how == "busy":
    texts = [f"the cat {number}" for number in range(1_000_000)]
    def embed():
        try:
            model.embed(texts)
        except Exception as error:
            print(type(error).__name__, error, flush=True)
    threading.Thread(target=embed, daemon=True).start()
    time.sleep(0.2)
if how == "spawn":
    import multiprocessing
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.apply(model.embed, ("hello",))
        except TypeError as error:
            print(error, flush=True)
print("end", flush=True)
"""


def run_program(how, models, cache_dir):
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, how, str(models / "encoder.gguf"), str(cache_dir)],
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.mark.process
@pytest.mark.parametrize(
    ("how", "lines"),
    [
        ("exit", ["end"]),
        ("busy", ["end", "Unavailable this Embedder was closed before the result was there"]),
        ("spawn", ["this Embedder cannot be pickled or copied, because it owns threads", "end"]),
        (
            "fork",
            ["EngineFailure this Embedder was created in another process", "own (32,)", "child 0 (32,)", "end"],
        ),
    ],
)
def test_a_program_that_never_closes_its_model_ends(models, cache_dir, how, lines):
    ended = run_program(how, models, cache_dir)
    printed = ended.stdout.splitlines()
    assert (ended.returncode, ended.stderr) == (0, "")
    assert [line[: len(start)] for line, start in zip(printed, lines, strict=True)] == lines


def test_another_process_is_refused(monkeypatch, open_model):
    model = open_model()
    monkeypatch.setattr("gguf_embed.embedder.loop_thread.os.getpid", lambda: -1)
    with pytest.raises(EngineFailure, match="create one Embedder per process"):
        model.embed("cat")
    monkeypatch.undo()
