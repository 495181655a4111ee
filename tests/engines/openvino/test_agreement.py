"""What is found of BF16's differences from float32, on engines whose rows are scripted here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gguf_embed.engines.openvino.agreement import (
    Agreement,
    FullResults,
    compare,
    cosines,
    mean_deviation,
    sample_pairs,
)
from gguf_embed.types import DENSE, SCORES, TOKENS, OutputSpec, Pooling

MEAN = OutputSpec.of(Pooling.MEAN)
N_VOCAB = 100_000


def test_cosines_of_rows():
    a = np.array([[1, 0], [1, 1], [2, 0]], np.float32)
    b = np.array([[0, 1], [1, 1], [-1, 0]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [0, 1, -1], atol=1e-12)


class FakeRows:
    """An engine whose contexts give scripted rows: the sum of a text's ids, and of the others in its batch.

    `of_tokens`: what is added to each token's row, which does not change the text's. `of_scores`: what is added to
    scores for each other text of the batch. `of_pairs`: to rows of texts with the second token type.
    """

    def __init__(
        self,
        rounding: float = 0.0,
        leaking: float = 0.0,
        of_tokens: float = 0.0,
        of_scores: float = 0.0,
        of_pairs: float = 0.0,
        n_scores: int = 1,
    ) -> None:
        self.rounding, self.leaking, self.of_tokens = rounding, leaking, of_tokens
        self.of_scores, self.of_pairs = of_scores, of_pairs
        self.info = SimpleNamespace(n_cls_out=n_scores, has_second_text=True, n_vocab=N_VOCAB, n_ctx_train=4)
        self.specs: list[Any] = []

    def open_context(self, spec: Any) -> FakeRows:
        self.specs.append(spec)
        return self

    def embed(self, batch: list[list[int]], n_threads: int) -> Any:
        spec = self.specs[-1]
        assert sum(map(len, batch)) <= spec.max_tokens
        assert len(batch) <= spec.max_sequences
        rows = [[1.0, sum(text) + self.rounding, self.leaking * len(batch)] for text in batch]
        for row, text in zip(rows, batch, strict=True):
            row[1] += self.of_pairs * (max(text) >= N_VOCAB)
            row[1] += self.of_scores * (len(batch) - 1) * (spec.output.kind == SCORES)
        if spec.output.kind == TOKENS:
            rows = [[1.0, token + self.of_tokens, 0.0] for text in batch for token in text]
        return type("Output", (), {"matrix": np.array(rows, np.float32)})

    def close(self) -> None:
        pass


def compared(full: Any, reduced: Any, samples: list[list[int]], output: OutputSpec) -> Agreement:
    return compare(FullResults.of(full, samples, output), reduced)


@pytest.mark.parametrize(
    ("reduced", "output", "is_good"),
    [
        (FakeRows(), MEAN, True),
        (FakeRows(rounding=1.0), MEAN, False),
        (FakeRows(leaking=0.1), MEAN, False),
        (FakeRows(), OutputSpec.of(Pooling.NONE), True),
        (FakeRows(of_tokens=1.0), OutputSpec.of(Pooling.NONE), True),
        (FakeRows(), OutputSpec(TOKENS, for_scores=True), True),
        (FakeRows(of_tokens=1.0), OutputSpec(TOKENS, for_scores=True), False),
        (FakeRows(), OutputSpec.of(Pooling.RANK), True),
        (FakeRows(rounding=0.012), OutputSpec.of(Pooling.RANK), False),
        (FakeRows(of_scores=0.012), OutputSpec.of(Pooling.RANK), False),
        (FakeRows(of_scores=0.012), MEAN, False),
        (FakeRows(of_pairs=N_VOCAB), OutputSpec.of(Pooling.RANK), False),
        (FakeRows(of_pairs=N_VOCAB), MEAN, False),
    ],
)
def test_what_bf16_changes_is_found(reduced, output, is_good):
    samples = [[1], [0, 0, 1], [1, 1]]
    assert compared(FakeRows(), reduced, samples, output).is_good is is_good


@pytest.mark.parametrize("reduced", [FakeRows(of_scores=1.0), FakeRows(of_pairs=N_VOCAB)])
def test_without_a_rank_head_no_scores_are_compared(reduced):
    full = FakeRows(n_scores=0)
    assert compared(full, reduced, [[1], [0, 0, 1], [1, 1]], MEAN).is_good
    assert {spec.output.kind for spec in full.specs} == {DENSE}


def test_pairs_are_a_query_and_a_document_with_the_second_token_type():
    info = FakeRows().info
    samples = [[1, 5, 2], [1, 2], [1, 9, 2], [1, 6, 2], [1, 7, 8, 2]]
    second = N_VOCAB
    assert sample_pairs(samples, info) == [[1, 5, 2, 6 + second], [1, 2, 7 + second, 8 + second]]
    info.has_second_text, info.n_ctx_train = False, 512
    assert sample_pairs(samples, info) == [[1, 5, 2, 6, 2], [1, 2, 7, 8, 2]]
    assert sample_pairs(samples[:1], info) == []


@pytest.mark.parametrize(
    ("agreement", "is_good"),
    [
        (Agreement(0.99995, 0.99999, 0.01), True),
        (Agreement(0.99994, 0.99999), False),
        (Agreement(0.99995, 0.999989), False),
        (Agreement(1.0, 1.0, 0.0101), False),
        (Agreement(float("nan"), 1.0), False),
        (Agreement(1.0, float("nan")), False),
        (Agreement(1.0, 1.0, float("nan")), False),
    ],
)
def test_agreement_at_its_borders(agreement, is_good):
    assert agreement.is_good is is_good


def test_agreement_in_words():
    assert str(Agreement(0.99995, 0.9999999)) == "cosine 0.999950 to float32, 0.9999999 alone to in a batch"
    scores = "cosine 0.999950 to float32, 0.9999999 alone to in a batch, scores differ by up to 0.0120"
    assert str(Agreement(0.99995, 0.9999999, 0.012)) == scores


@pytest.mark.parametrize(
    ("cosines_to_full", "score_differences", "expected"),
    [
        ([0.99996, 0.99999], [0], 0.5),
        ([0.99996, 0.99999], [0.0, 0.04], 2),
        ([0.9998, 1.0], [0.01, 0.01], 2),
        ([float("nan"), 1.0], [0], float("inf")),
        ([1.0], [float("nan")], float("inf")),
    ],
)
def test_the_mean_deviation_is_the_larger_part_of_what_is_allowed(cosines_to_full, score_differences, expected):
    assert mean_deviation(np.array(cosines_to_full), np.array(score_differences)) == pytest.approx(expected)


def test_vectors_of_zeros_agree_with_nothing():
    zeros = np.zeros((1, 3), np.float32)
    assert not cosines(zeros, zeros) >= 0.9


def test_a_difference_of_scores_counts_relative_to_large_ones():
    found = compared(FakeRows(), FakeRows(rounding=1.0), [[1000]], OutputSpec.of(Pooling.RANK))
    assert found.score_difference == pytest.approx(0.001)
