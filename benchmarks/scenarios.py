"""Generates the workloads: seeded English texts, grouped into requests. Pure: equal seeds give equal bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

EncodingFormat = Literal["float", "base64"]

SPECIAL_TOKENS = 2  # an encoder's opening and closing token


def _words(block: str) -> tuple[str, ...]:
    return tuple(block.split())


# Every word is one token in BERT's vocabulary, so a text's length is known without a tokenizer.
_ADJECTIVES = _words("""
    small large quiet early distant modern public narrow bright heavy local ancient careful common deep dry empty
    famous fresh green happy hidden simple strong warm young rapid broken central cheap clean cold dark double dusty
    eastern familiar formal frozen gentle golden honest hollow humble idle joint keen late literary long lower loyal
    major massive mild moral nervous noble northern novel odd official open outer pale perfect plain polite private
    proud rare
""")
_NOUNS = _words("""
    river market teacher engine garden window letter village doctor station bridge farmer signal forest captain
    kitchen library mountain painter report student valley winter server network database question answer city
    harbor island journal king lawyer machine meeting museum newspaper officer orchestra palace patient pilot planet
    poet prison product project record region restaurant road rocket scientist season shadow ship singer soldier
    storm street studio summer surgeon table temple theory tower trader train treaty tree tunnel uncle university
    vessel victim visitor voice wagon wall watch weapon weather wheel writer yard abbey account actor airport album
    animal apartment army article artist author baby balance ball band bank barrel battle beach bear bell bird boat
    body book border bottle
""")
_VERBS = _words("""
    crossed followed described found carried opened joined studied painted watched changed covered repaired reached
    held kept built measured moved named offered owned passed played praised produced protected pulled pushed raised
    received refused released remembered removed replaced rescued restored returned ruled saved searched served
    shared signed sold started stopped supported surrounded taught tested touched traced trained visited wanted
    warned won abandoned accepted
""")
_LINKS = _words("""
    near behind under beyond beside against through across without despite
""")
_DETERMINERS = _words("""
    the a every this another each one our their its
""")
_PATTERN = (_DETERMINERS, _ADJECTIVES, _NOUNS, _VERBS, _DETERMINERS, _NOUNS, _LINKS, _DETERMINERS, _ADJECTIVES, _NOUNS)
_MAX_SENTENCE_WORDS = 20


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way of using the server. Lengths are in tokens, special tokens included; ranges are inclusive."""

    name: str
    n_clients: int
    n_requests: int  # per run
    texts_per_request: tuple[int, int]
    tokens_per_text: tuple[int, int]
    log_normal: bool = False  # lengths spread log-normally over the range, instead of evenly
    query_tokens: tuple[int, int] | None = None  # set: rerank, so the texts are documents, and each request has a query


@dataclass(frozen=True, slots=True)
class Workload:
    """The requests of one run, in order, and the lengths in tokens of what the model reads for each.

    A rerank request is a query followed by its documents; the model reads a pair for each document.
    """

    n_clients: int
    requests: tuple[tuple[str, ...], ...]
    n_tokens: tuple[tuple[int, ...], ...]


SCENARIOS = (
    Scenario("single", 1, 300, (1, 1), (21, 21)),
    Scenario("clients32", 32, 768, (1, 1), (21, 21)),
    Scenario("batch32", 4, 24, (32, 32), (21, 21)),
    Scenario("passages", 4, 8, (16, 16), (240, 260)),
    Scenario("mixed", 8, 48, (1, 16), (5, 400), log_normal=True),
    Scenario("rerank", 4, 8, (32, 32), (40, 140), query_tokens=(8, 16)),
)


def all_words() -> tuple[str, ...]:
    """Every word that occurs in a text, in lower case."""
    return tuple(dict.fromkeys(word for words in _PATTERN for word in words))


def scale(scenario: Scenario, factor: float) -> Scenario:
    """The same scenario with `factor` times as many requests, at least two per client."""
    return replace(scenario, n_requests=max(2 * scenario.n_clients, round(scenario.n_requests * factor)))


def make_workload(scenario: Scenario, seed: str) -> Workload:
    """Generate the texts of one run. No text repeats. Another seed generates others, except for some short ones."""
    rng = Random(f"{seed}/{scenario.name}")
    seen: set[str] = set()
    requests, lengths = [], []
    for _ in range(scenario.n_requests):
        counts = [_draw_length(rng, scenario) for _ in range(rng.randint(*scenario.texts_per_request))]
        queries = [rng.randint(*scenario.query_tokens)] if scenario.query_tokens else []
        requests.append(tuple(_unseen_text(rng, count, seen) for count in (*queries, *counts)))
        # a pair has three special tokens, the query and the document have two each when they are alone
        lengths.append(tuple(count + sum(queries) - len(queries) for count in counts))
    return Workload(scenario.n_clients, tuple(requests), tuple(lengths))


def make_texts_of(rng: Random, n_texts: int, n_tokens: int) -> tuple[str, ...]:
    """Texts of exactly `n_tokens` tokens of the default model, special tokens included. They may repeat by chance."""
    return tuple(_text(rng, n_tokens) for _ in range(n_texts))


def encode_body(texts: tuple[str, ...], encoding_format: EncodingFormat) -> bytes:
    """The JSON of one `/v1/embeddings` request: a single text as a string, several as a list."""
    body: dict[str, object] = {
        "input": texts[0] if len(texts) == 1 else list(texts),
        "model": "default",
        "encoding_format": encoding_format,
    }
    return json.dumps(body, separators=(",", ":")).encode()


def encode_rerank_body(texts: tuple[str, ...]) -> bytes:
    """The JSON of one `/v1/rerank` request: a query and its documents."""
    query, *documents = texts
    body = {"model": "default", "query": query, "documents": documents}
    return json.dumps(body, separators=(",", ":")).encode()


def _draw_length(rng: Random, scenario: Scenario) -> int:
    low, high = scenario.tokens_per_text
    if not scenario.log_normal:
        return rng.randint(low, high)
    # a median of about 40 tokens, and a tenth above 150: a mixture of queries and chunks
    return min(high, max(low, round(rng.lognormvariate(3.7, 1.0))))


def _unseen_text(rng: Random, n_tokens: int, seen: set[str]) -> str:
    """A text that is not in `seen`, to which it is added. The loop is for short texts, which may repeat by chance."""
    while True:
        text = _text(rng, n_tokens)
        if text not in seen:
            seen.add(text)
            return text


def _text(rng: Random, n_tokens: int) -> str:
    """Sentences of exactly `n_tokens` tokens, including periods and the two special tokens."""
    left = n_tokens - SPECIAL_TOKENS
    sentences = []
    while left > 0:
        n_words = min(left - 1, rng.randint(8, _MAX_SENTENCE_WORDS))
        if left - 1 - n_words in (1, 2):  # too little for another sentence: make this one longer
            n_words = left - 1
        sentences.append(_sentence(rng, n_words))
        left -= n_words + 1
    return " ".join(sentences)


def _sentence(rng: Random, n_words: int) -> str:
    words = [rng.choice(_PATTERN[i % len(_PATTERN)]) for i in range(n_words)]
    return " ".join(words).capitalize() + "."
