"""What the servers are asked to do, embed or rerank: the route, and how its bodies are written and read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.replies import Answers, read_replies, read_rerank_replies
from benchmarks.scenarios import EncodingFormat, Scenario, encode_body, encode_rerank_body


@dataclass(frozen=True, slots=True)
class Task:
    """One route that all servers have."""

    name: str
    path: str
    llama_flags: tuple[str, ...]  # which llama-server needs for it
    probe: tuple[str, ...]  # a request with one text, or with one document
    encode: Callable[[tuple[str, ...], EncodingFormat], bytes]
    read: Callable[[Sequence[bytes], Sequence[int]], Answers]  # from replies and the number of outputs in each


EMBED = Task("embed", "/v1/embeddings", ("--embedding",), ("Is anybody there?",), encode_body, read_replies)
RERANK = Task(
    "rerank",
    "/v1/rerank",
    ("--reranking",),
    ("Is anybody there?", "Yes."),
    lambda texts, _: encode_rerank_body(texts),
    read_rerank_replies,
)
TASKS = (EMBED, RERANK)


def task_of(scenario: Scenario) -> Task:
    return RERANK if scenario.query_tokens else EMBED
