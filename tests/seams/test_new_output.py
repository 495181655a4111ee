"""A new kind of output is a class with the methods of `Output`: from the engine through scheduler and service.

Nothing else knows of it, and it is written here in under 100 lines.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from gguf_embed.engines.base import ContextSpec
from gguf_embed.engines.fake import BOS, EOS, FakeContext, FakeEngine
from gguf_embed.errors import EngineFailure
from gguf_embed.types import DENSE, EmbedRequest, OutputSpec
from tests.service.test_service import serving

COUNTS = OutputSpec("counts")
BROKEN = ord("!")


@dataclass(frozen=True)
class TokenCounts:
    """Of each text, how often each token occurs."""

    weights: tuple[dict[int, float], ...]
    kind = "counts"

    def __len__(self) -> int:
        return len(self.weights)

    def part(self, index: int) -> TokenCounts:
        return TokenCounts((self.weights[index],))

    @classmethod
    def join(cls, parts: Sequence[TokenCounts | None]) -> TokenCounts:
        return cls(tuple({} if part is None else part.weights[0] for part in parts))

    def fault(self) -> str:
        is_finite = all(weight == weight for text in self.weights for weight in text.values())
        return "" if is_finite else "the model returned numbers that are not finite"

    def finished(self, embd_normalize: int, dimensions: int | None) -> TokenCounts:
        return TokenCounts(tuple(dict(Counter(text).most_common(dimensions)) for text in self.weights))


class CountsContext(FakeContext):
    """Counts a text's tokens; a "!" counts NaN."""

    def embed(self, batch: Sequence[Sequence[int]], n_threads: int) -> TokenCounts:
        counts = [{token: float(n) for token, n in Counter(text).items()} for text in batch]
        return TokenCounts(tuple({t: n if t != BROKEN else float("nan") for t, n in text.items()} for text in counts))


@pytest.fixture(autouse=True)
def counts_contexts(monkeypatch):
    """The fake engine opens one where this output is asked for."""
    dense = FakeEngine.open_context

    def open_context(engine: FakeEngine, spec: ContextSpec) -> FakeContext:
        context = dense(engine, spec)
        return CountsContext(engine, spec) if spec.output == COUNTS else context

    monkeypatch.setattr(FakeEngine, "open_context", open_context)


def weights_of(text: str) -> dict[int, float]:
    return {BOS: 1.0, EOS: 1.0} | {token: float(text.encode().count(token)) for token in text.encode()}


def ask(running, *inputs: str, **fields: object):
    return running.run(running.service.embed(EmbedRequest(inputs, output=COUNTS, **fields)))


def test_texts_become_the_new_output_in_their_order(models):
    with serving(models) as running:
        result = ask(running, "aab", "c", "aab")
        dense = running.embed("aab")
    assert result.output == TokenCounts((weights_of("aab"), weights_of("c"), weights_of("aab")))
    assert (result.output.kind, dense.output.kind) == ("counts", DENSE)


def test_dimensions_and_broken_numbers_are_the_new_outputs_to_judge(models):
    with serving(models) as running:
        assert ask(running, "aab", dimensions=1).output == TokenCounts(({ord("a"): 2.0},))
        with pytest.raises(EngineFailure):
            ask(running, "good", "bad!")
        skipped = ask(running, "good", "bad!", on_error="skip")
    assert skipped.output == TokenCounts((weights_of("good"), {}))
    assert [failure.index for failure in skipped.failures] == [1]


def test_this_file_is_short():
    assert len(Path(__file__).read_text("utf-8").splitlines()) < 100
