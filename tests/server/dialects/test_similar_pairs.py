"""`POST /similarity` with texts: all pairs."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from tests.server.fake_service import serving


def ask(body, status=200, **options):
    async def scenario():
        async with serving(**options) as running:
            reply = await running.post("/similarity", body)
            assert reply.status == status, reply.raw
            return reply.json

    return asyncio.run(scenario())


def test_without_limits_it_is_a_matrix():
    texts = [f"text {number}" for number in range(600)]
    reply = ask({"texts": texts})
    matrix = np.array(reply["matrix"])
    assert matrix.shape == (600, 600)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-6)
    np.testing.assert_allclose(np.diag(matrix), 1.0, atol=1e-6)
    assert reply["usage"]["prompt_tokens"] == sum(len(text) + 2 for text in texts)
    row = ask({"inputs": {"source_sentence": texts[0], "sentences": texts[1:]}})
    np.testing.assert_allclose(matrix[0, 1:], row, atol=1e-6)


def test_the_pairs_most_alike_come_first():
    reply = ask({"sentences": ["a cat", "dogs", "a cat", "a car"], "top_k": 3})
    assert reply["pairs"][0] == {"first": 0, "second": 2, "score": pytest.approx(1.0, abs=1e-6)}
    scores = [pair["score"] for pair in reply["pairs"]]
    assert (len(scores), scores, reply["n_found"], reply["model"]) == (3, sorted(scores, reverse=True), 6, "tiny")


def test_a_threshold_leaves_out_the_others_and_counts_what_it_found():
    texts = ["a", "b", "a", "a", "c"]
    reply = ask({"texts": texts, "threshold": 0.9999, "top_k": 2})
    assert (len(reply["pairs"]), reply["n_found"]) == (2, 3)
    assert [(pair["first"], pair["second"]) for pair in ask({"texts": texts, "threshold": 0.9999})["pairs"]] == [
        (0, 2),
        (0, 3),
        (2, 3),
    ]


@pytest.mark.parametrize("more", [{}, {"texts": ["b"]}])
def test_a_source_sentence_beside_the_texts_is_refused_and_not_ignored(more):
    error = ask({"source_sentence": "a cat", "sentences": ["a dog"], **more}, 422)["error"]
    assert error == (
        '"source_sentence" belongs in "inputs": send {"inputs": {"source_sentence": "…", "sentences": ["…"]}}'
    )


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"texts": "a"}, '"texts" must be an array of strings'),
        ({"texts": []}, '"texts" must not be empty'),
        ({"texts": ["a", 5]}, '"texts[1]" must be a string, found the number 5'),
        ({"texts": ["a"], "sentences": ["b"]}, "mean the same here"),
        ({"texts": ["a"], "threshold": 2}, '"threshold" must be a number from -1 to 1'),
        ({"texts": ["a"], "threshold": True}, '"threshold" must be a number from -1 to 1'),
        ({"texts": ["a"], "top_k": 0}, '"top_k" must be an integer of at least 1'),
        ({"texts": ["a"], "top_k": 10**6}, '"top_k" must be at most 100000'),
        ({"texts": ["a"], "output_dtype": "int8"}, '"output_dtype" is not supported'),
    ],
)
def test_what_is_wrong_is_named(body, words):
    status = 400 if body["texts"] == [] else 422
    assert words in ask(body, status)["error"]
