"""Puts units together until a chunk is full."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from gguf_embed.ingest.chunking.boundaries import Boundaries, Strength, fine_positions, strength_at
from gguf_embed.ingest.chunking.settings import ChunkBy
from gguf_embed.ingest.chunking.token_counts import TokenCounts
from gguf_embed.tokenization.offsets import trim
from gguf_embed.types import Span

PREFERENCES: Final[dict[ChunkBy, Sequence[tuple[Strength, float]]]] = {
    "sentence": ((Strength.SENTENCE, 0.25),),
    "paragraph": ((Strength.PARAGRAPH, 0.25), (Strength.SENTENCE, 0.25)),
    "markdown": ((Strength.PARAGRAPH, 0.5), (Strength.SENTENCE, 0.25)),
    "auto": ((Strength.PARAGRAPH, 0.5), (Strength.SENTENCE, 0.25)),
}
"""A chunk ends at the last boundary of this strength, if that fills at least this share of it; else the next rule."""

_SPACE_SHARE: Final = 0.5  # below, units are cut finer before a chunk ends between two words


@dataclass(frozen=True, slots=True)
class Packing:
    """One text, and the places where it may be cut. `boundaries` get finer where that is needed."""

    text: str
    boundaries: Boundaries
    counts: TokenCounts
    soft_wraps: set[int]
    by: ChunkBy
    code: frozenset[int]  # where code begins that is cut only if it does not fit

    def pack(self, start: int, stop: int, size: int, overlap: int) -> list[Span]:
        """Chunks from one boundary to another, in order, of at most `size` tokens, unless one character has more."""
        spans: list[Span] = []
        done = start
        while done < stop:
            end = self._end(start, done, stop, size)
            if end is None:
                start = done  # with the overlap, not a single word would fit
                continue
            if self.text[done:end].isspace():
                done = end
                continue
            spans.append((start, end))
            start, done = self._overlap_start(start, end, overlap), end
        return spans

    def _end(self, start: int, done: int, stop: int, size: int) -> int | None:
        """Where the chunk ends that starts at `start` and must have more than what is done."""
        first, last = self._fitting(start, done, stop, size)
        if last > first and self.boundaries.positions[last - 1] == stop:
            return stop
        rules = [*PREFERENCES[self.by], (Strength.SPACE, _SPACE_SHARE)]
        end = self._choose(start, done, size, range(first, last), rules)
        if end is not None:
            return end
        self._refine(first - 1, last, size)
        first, last = self._fitting(start, done, stop, size)
        end = self._choose(start, done, size, range(first, last), [*rules, (Strength.SPACE, 0.0)])
        if end is not None or start < done:
            return end
        cuts: list[tuple[Strength, float]] = [(strength, 0.0) for strength in (Strength.MARK, Strength.WORD)]
        end = self._choose(start, done, size, range(first, last), [*cuts, (Strength.CHARACTER, 0.0)])
        return self.boundaries.positions[first] if end is None else end

    def _fitting(self, start: int, done: int, stop: int, size: int) -> tuple[int, int]:
        """The boundaries after `done` where a chunk from `start` would be short enough: from index, to index."""
        positions = self.boundaries.positions
        # a chunk may end where the first token begins that is one too many
        n_fitting = self.counts.ended(start) + size
        starts = self.counts.starts
        limit = min(stop, starts[n_fitting] if n_fitting < len(starts) else stop)
        first = bisect_right(positions, done)
        return first, max(first, bisect_right(positions, limit))

    def _choose(
        self, start: int, done: int, size: int, among: range, rules: Sequence[tuple[Strength, float]]
    ) -> int | None:
        """The last boundary that satisfies the first rule which any satisfies."""
        positions, strengths = self.boundaries.positions, self.boundaries.strengths
        room = size - self.counts.between(start, done) if start < done else size
        for strength, share in rules:
            for index in reversed(among):
                if self.counts.between(done, positions[index]) < share * room:
                    break
                if strengths[index] >= strength:
                    return positions[index]
        return None

    def _refine(self, first: int, last: int, size: int) -> None:
        """Cut the units between two boundaries into words and tokens."""
        positions, strengths = self.boundaries.positions, self.boundaries.strengths
        starts = self.counts.starts
        for index in reversed(range(first, last)):
            start, end = positions[index], positions[index + 1]
            if start in self.code and self.counts.between(start, end) <= size:
                continue
            tokens = starts[bisect_right(starts, start) : bisect_left(starts, end)]
            fine = list(fine_positions(self.text, start, end, tokens))
            positions[index + 1 : index + 1] = fine
            strengths[index + 1 : index + 1] = [strength_at(self.text, at, self.soft_wraps) for at in fine]

    def _overlap_start(self, start: int, end: int, overlap: int) -> int:
        """Where the next chunk starts: before `end` by at most `overlap` tokens, at a sentence if there is one."""
        if overlap == 0:
            return end
        begin, _ = trim(self.text, start, end)  # the next chunk must not repeat all of this one
        first, last = self.boundaries.indexes_inside(begin, end)
        best = end
        for index in reversed(range(first, last)):
            position = self.boundaries.positions[index]
            if self.counts.between(position, end) > overlap:
                break
            strength = self.boundaries.strengths[index]
            if strength >= Strength.SENTENCE or (strength >= Strength.SPACE and not self._is_sentence(best, end)):
                best = position
        return best

    def _is_sentence(self, position: int, end: int) -> bool:
        index = bisect_left(self.boundaries.positions, position)
        return position < end and self.boundaries.strengths[index] >= Strength.SENTENCE
