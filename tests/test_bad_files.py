"""No file ends the server: damaged models are served beside a healthy one, and each is asked for."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from gguf_embed.types import Pooling
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder
from tests.mutate_gguf import mutants, read_model
from tests.server_process import Server, start_server, stop

SEED = 12
N_MUTANTS = 600
LIMIT_S = 55.0
"""For one request: a trial may take 20 s to tokenize, and two of them run at once."""

KILLERS = (
    *("block_count-0", "block_count-2147483648", "expert_count-2147483648", "attention.key_length-1048576"),
    *("attention.layer_norm_epsilon-nan", "attention.layer_norm_epsilon--1.0", "attention.layer_norm_rms_epsilon-nan"),
    *("alignment-1-said", "alignment-8-said", "alignment-1-kept", "alignment-8-kept"),
    *("vocabulary-all-equal", "vocabulary-two-equal", "vocabulary-not-utf8", "vocabulary-without-mark", "types-all-6"),
    *("tokenizer-llama", "tokenizer-llama-scores", "tokenizer-rwkv", "tokenizer-t5", "tokenizer-plamo2"),
    *("type-blk.0.attn_q.bias-26", "type-blk.0.attn_output_norm.weight-26", "type-position_embd.weight-26"),
    *("type-token_embd.weight-25", "type-output_norm.weight-26", "type-blk.0.attn_norm.weight-24"),
    *("embedding_length_out-4294967295", "zero-weights", "nan-weights", "truncated-0.5", "last-half-zero"),
    *("attention.head_count-0", "embedding_length-0", "rope.dimension_count-7", "vocabulary-one-not-utf8"),
)
"""What ended the server, hung it, or gave vectors of zeros when it was tried; and their like."""

TINY: Mapping[str, Callable[[Path], Path]] = {
    "encoder": write_tiny_encoder,
    "decoder": write_tiny_decoder,
    "reranker": lambda path: write_tiny_encoder(path, pooling=Pooling.RANK, rank_head=True),
}


@pytest.fixture(scope="module")
def all_mutants(tmp_path_factory) -> dict[str, bytes]:
    """Every mutant of every kind of model by name."""
    folder = tmp_path_factory.mktemp("originals")
    found: dict[str, bytes] = {}
    for kind, write in TINY.items():
        model = read_model(write(folder / f"{kind}.gguf"))
        found |= {f"{kind}-{name.replace('/', '_')}": data for name, data in mutants(model, SEED)}
    return found


@dataclass
class Watch:
    """Asks the healthy model again and again, as another client would."""

    server: Server
    n_answered: int = 0
    slowest_s: float = 0.0
    faults: list[str] = field(default_factory=list)
    _end: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._end.wait(0.2):
            started_s = time.monotonic()
            try:
                reply = self.server.post("/v1/embeddings", {"input": "hello world", "model": "healthy"})
                if reply.status != 200:
                    self.faults.append(f"{reply.status} {reply.body!r}")
            except (OSError, HTTPException) as error:
                self.faults.append(repr(error))
            self.n_answered += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)

    def __enter__(self) -> Watch:
        self._thread = threading.Thread(target=self.run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


def serve_all(folder: Path, files: Mapping[str, bytes], launch: Callable[..., Server]) -> Server:
    write_tiny_encoder(folder / "healthy.gguf", seed=9)
    for name, data in files.items():
        (folder / f"{name}.gguf").write_bytes(data)
    return launch("-m", f"healthy={folder / 'healthy.gguf'}", "--models-dir", folder, "--weights", "file")


def ask(server: Server, name: str) -> tuple[str, int, str, float]:
    """One request to a mutant: its name, status, the error if there is one, and how long it took."""
    started_s = time.monotonic()
    route, text = ("/v1/rerank", {"query": "a", "documents": ["Größe", "b"]})
    if not name.startswith("reranker"):
        route, text = "/v1/embeddings", {"input": ["hello", "Größe"]}
    reply = server.post(route, {"model": name, **text})  # raises after a minute
    message = "" if reply.status == 200 else str(reply.json().get("error", {}).get("message", reply.body))
    return name, reply.status, message, time.monotonic() - started_s


def check_all(server: Server, names: list[str]) -> list[tuple[str, int, str, float]]:
    """Ask for each once, two at a time, while another client uses the healthy model."""
    with Watch(server) as watch, ThreadPoolExecutor(2) as clients:
        answers = list(clients.map(lambda name: ask(server, name), names))
    assert server.process.poll() is None
    assert watch.faults == []
    assert watch.n_answered > len(names) // 20
    assert watch.slowest_s < 5
    return answers


def check_answers(answers: list[tuple[str, int, str, float]]) -> None:
    """Each is a vector or one clear line, in time."""
    assert [answer for answer in answers if answer[1] not in (200, 400, 404, 422, 500, 501, 503)] == []
    unclear = [answer for answer in answers if answer[1] != 200 and (len(answer[2]) < 20 or "\n" in answer[2])]
    assert unclear == []
    assert [answer for answer in answers if "internal error" in answer[2] or "see the server's log" in answer[2]] == []
    assert [answer for answer in answers if answer[3] > LIMIT_S] == []


def chosen(names: Mapping[str, bytes]) -> Iterator[str]:
    """The killers, of each kind of model in turn."""
    for number, name in enumerate(KILLERS):
        kinds = list(TINY)
        found = [f"{kind}-{name}" for kind in (*kinds[number % 3 :], *kinds) if f"{kind}-{name}" in names]
        assert found, name
        yield from found[:1] if "type-" in name else dict.fromkeys(found[:2])


@pytest.fixture(scope="module")
def killers(all_mutants) -> list[str]:
    names = list(chosen(all_mutants))
    assert len(names) >= 55
    return names


@pytest.fixture(scope="module")
def server(tmp_path_factory, cache_dir, all_mutants, killers) -> Iterator[Server]:
    """One for all of them: nothing of one file harms the next."""
    files = {name: all_mutants[name] for name in killers}
    server = serve_all(tmp_path_factory.mktemp("mutants"), files, partial(start_server, cache_dir))
    yield server
    stop(server)


@pytest.mark.process
@pytest.mark.parametrize("third", range(3))
def test_no_damaged_file_ends_the_server(server, killers, third):
    """Takes about 13 s on two processors."""
    without_weights = next(name for name in killers if "zero-weights" in name)
    answers = check_all(server, killers[third::3])
    check_answers(answers)
    for name, status, message, _ in answers:
        if name == without_weights:
            assert "weights" in message
        if "tokenizer-rwkv" in name:
            assert (status, "rwkv" in message) == (500, True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_hundreds_of_damaged_files_do_not_end_the_server(tmp_path, all_mutants, launch):
    names = sorted(random.Random(SEED).sample(sorted(all_mutants), N_MUTANTS))
    server = serve_all(tmp_path, {name: all_mutants[name] for name in names}, launch)
    answers = check_all(server, names)
    check_answers(answers)
    n_ended, n_stopped = (
        sum(words in message for _, _, message, _ in answers) for words in ("ended the child process", "took over")
    )
    print({status: sum(a[1] == status for a in answers) for status in {a[1] for a in answers}}, n_ended, n_stopped)
    assert n_ended > 0
