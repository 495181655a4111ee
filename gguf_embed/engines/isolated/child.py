"""The process that an engine runs in. The server opens lanes to it, each a socket with a thread here.

It ends with its first socket, which only the server holds: also if the server is killed.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from gguf_embed.engines.base import (
    ContextPlanner,
    ContextSpec,
    EngineContext,
    EngineDriver,
    ImageReader,
    LoadedEngine,
    LoadSpec,
)
from gguf_embed.engines.child_process import be_the_first_to_go
from gguf_embed.engines.choice import load_chosen
from gguf_embed.engines.freed_memory import release_buffers
from gguf_embed.engines.isolated import frames
from gguf_embed.engines.isolated.messages import (
    CodecCall,
    EmbedBatch,
    EmbedImages,
    Failed,
    IsolatedContexts,
    Loaded,
    LoadJob,
    MakePlan,
    OpenContext,
    OpenImages,
    Plan,
    ReleaseBuffers,
    Said,
)
from gguf_embed.engines.isolated.packed import PackedBytes, PackedStrings
from gguf_embed.engines.isolated.shared_rows import SharedRows
from gguf_embed.engines.reasons import leave_reasons_to_parent
from gguf_embed.engines.select import open_codec
from gguf_embed.errors import EmbedError, EngineFailure
from gguf_embed.gguf_file.towers import read_model
from gguf_embed.vectors import Rows

MARK = "\x1elog "
"""Begins a line of our log, followed by the level and the logger's name; other lines are printed by libraries."""

LINE_BREAK = "\u2028"
"""Stands for a line break within such a line."""

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """`sys.argv[2]` is the descriptor of the socket over which lanes are opened."""
    _end_with_parent()
    be_the_first_to_go()
    control = socket.socket(fileno=int(sys.argv[2]))
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # meant for the server, which finishes its work first
        signal.signal(number, signal.SIG_IGN)
    engine = _ChildEngine()
    while True:
        data, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not data:
            os._exit(0)  # at once: nothing is worth freeing
        memory = SharedRows(descriptors[1]) if len(descriptors) > 1 else None
        lane = _Lane(engine, socket.socket(fileno=descriptors[0]), memory)
        threading.Thread(target=lane.serve, daemon=True).start()


def _end_with_parent() -> None:
    """Linux ends this process with its parent's thread, even if it hangs. The socket's end does it elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@dataclass(slots=True)
class _ChildEngine:
    """What all lanes share, once it is loaded."""

    driver: EngineDriver | None = None
    spec: LoadSpec | None = None
    loaded: LoadedEngine | None = None
    planner: ContextPlanner | None = None

    def load(self, job: LoadJob, say: Callable[[Said], None]) -> Loaded:
        _start_log(job.log_level)
        leave_reasons_to_parent(lambda reason, line: say(Said("report", line, reason)))
        self.spec = LoadSpec(
            read_model(job.path),
            job.config,
            job.output,
            job.cache_dir,
            lambda line: say(Said("report", line)),
            open_codec,
            lambda stage: say(Said("stage", stage)),
        )
        self.driver, loaded = load_chosen(self.spec)
        self.loaded = loaded
        self.planner = pickle.loads(job.planner) if job.planner else None
        vocabulary = loaded.codec.vocabulary()
        n_vocab = len(vocabulary.entries)
        return Loaded(
            engine=self.driver.name,
            info=loaded.engine.info,
            weights_type=loaded.weights_type,
            vocabulary=replace(vocabulary, entries=PackedStrings(vocabulary.entries)),
            pieces=PackedBytes(map(loaded.codec.token_bytes, range(n_vocab))),
            is_exact=loaded.exact is not None,
            reads_images=loaded.open_images is not None,
            images_alone=loaded.images_alone,
        )

    def make_plan(self, max_input_tokens: int) -> Plan:
        assert self.driver is not None
        assert self.spec is not None
        plan = self.driver.plan(self.ready, self.spec, max_input_tokens)
        self.planner, limits = plan.contexts, plan.limits
        sizes = (self.planner.max_tokens, self.planner.long_tokens, limits.max_tokens, limits.max_sequences)
        return Plan(replace(plan, contexts=IsolatedContexts(*sizes)), pickle.dumps(self.planner))

    @property
    def ready(self) -> LoadedEngine:
        assert self.loaded is not None
        return self.loaded


@dataclass(slots=True)
class _Lane:
    """One thread that answers requests in turn, with its own contexts."""

    engine: _ChildEngine
    end: socket.socket
    memory: SharedRows | None = None
    opened: OpenContext | None = None
    images: ImageReader | None = None
    contexts: dict[ContextSpec, EngineContext] = field(default_factory=dict)
    stack: ExitStack = field(default_factory=ExitStack)

    def serve(self) -> None:
        """Until the server closes the lane."""
        with self.stack, self.end, contextlib.suppress(frames.Closed):
            while True:
                frames.send(self.end, self._answer(frames.receive(self.end)))

    def _answer(self, request: object) -> object:
        try:
            return self._run(request)
        except EmbedError as error:
            return Failed(error)
        except Exception as error:
            logging.getLogger("gguf_embed.isolated").exception("a request failed")
            return Failed(EngineFailure(f"{type(error).__name__}: {error}"))

    def _run(self, request: object) -> object:
        match request:
            case EmbedBatch():
                return self._embed(request)
            case CodecCall(method, argument, options):
                loaded = self.engine.ready
                codec = loaded.codec if method in ("tokenize", "detokenize") else loaded.exact
                return getattr(codec, method)(argument, **dict(options))
            case OpenContext():
                self.opened = request
                self._context(1)
            case ReleaseBuffers():
                return release_buffers((*self.contexts.values(), self.images))
            case EmbedImages(inputs, output):
                assert self.images is not None
                return self.images.embed_batch(inputs, output)
            case OpenImages():
                open_images = self.engine.ready.open_images
                assert open_images is not None
                self.images = open_images()
                self.stack.callback(self.images.close)
                return self.images.max_inputs
            case LoadJob():
                return self.engine.load(request, partial(frames.send, self.end))
            case MakePlan(max_input_tokens):
                return self.engine.make_plan(max_input_tokens)
        return None

    def _embed(self, batch: EmbedBatch) -> object:
        """The output, or where its rows are."""
        context = self._context(sum(map(len, batch.texts)))
        output = context.embed(batch.texts, batch.n_threads)
        if self.memory is None or not isinstance(output, Rows):
            return output
        return self.memory.write(output) or output

    def _context(self, n_tokens: int) -> EngineContext:
        assert self.opened is not None
        assert self.engine.planner is not None
        spec = self.engine.planner.spec(self.opened.output, n_tokens, long=self.opened.long)
        context = self.contexts.get(spec)
        if context is None:
            context = self.contexts[spec] = self.engine.ready.engine.open_context(spec)
            self.stack.callback(context.close)
        return context


class _LogFormatter(logging.Formatter):
    """One line per record, so that the server can log it under the same name and level."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{MARK}{record.levelno} {record.name} " + super().format(record).replace("\n", LINE_BREAK)


def _start_log(level: int) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_LogFormatter("%(message)s"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("gguf_embed.llama").setLevel(logging.DEBUG)  # its last lines explain how it has ended
