import base64
import json

import numpy as np
import pytest

from benchmarks.replies import min_cosine, read_replies, read_rerank_replies
from gguf_embed.errors import EngineFailure


def reply(embeddings, indexes=None):
    indexes = indexes or range(len(embeddings))
    rows = [{"embedding": row, "index": i} for row, i in zip(embeddings, indexes, strict=True)]
    return json.dumps({"data": rows, "usage": {"prompt_tokens": 7}}).encode()


def as_base64(values):
    return base64.b64encode(np.asarray(values, "<f4").tobytes()).decode()


def test_base64_and_lists_of_numbers_read_the_same():
    answers = read_replies([reply([[1.0, 2.0]]), reply([as_base64([1.0, 2.0])])], [1, 1])
    np.testing.assert_array_equal(answers.vectors, [[1, 2], [1, 2]])
    assert answers.n_tokens == (7, 7)


def test_vectors_are_put_in_the_order_of_their_index():
    answers = read_replies([reply([[1.0], [2.0]], indexes=[1, 0])], [2])
    np.testing.assert_array_equal(answers.vectors, [[2], [1]])


@pytest.mark.parametrize(
    ("replies", "n_texts", "message"),
    [
        ([reply([[1.0]])], [2], "1 vectors, .* 2$"),
        ([reply([[1.0], [1.0]], indexes=[0, 0])], [2], "vectors"),
        ([reply([[1.0], [1.0, 2.0]])], [2], "length"),
        ([reply([[float("nan")]])], [1], "finite"),
        ([b"not json"], [1], "not an embeddings reply"),
        ([b'{"data": []}'], [1], "not an embeddings reply"),
    ],
)
def test_a_wrong_reply_is_refused(replies, n_texts, message):
    with pytest.raises(EngineFailure, match=message):
        read_replies(replies, n_texts)


def test_agreement_is_the_worst_cosine_of_all_rows():
    ours = np.array([[1, 0], [3, 4]], np.float32)
    theirs = np.array([[5, 0], [4, 3]], np.float32)
    assert min_cosine(ours, theirs) == pytest.approx(24 / 25, abs=1e-6)


def test_vectors_of_other_shapes_do_not_compare():
    with pytest.raises(EngineFailure, match="shapes"):
        min_cosine(np.zeros((1, 2), np.float32), np.zeros((1, 3), np.float32))


def rerank_reply(scores):
    results = [{"index": i, "relevance_score": score} for i, score in scores]
    return json.dumps({"results": results, "usage": {"prompt_tokens": 9}}).encode()


def test_scores_become_a_row_in_the_order_of_the_documents_around_their_mean():
    answers = read_rerank_replies([rerank_reply([(1, 5.0), (0, 3.0)])], [2])
    np.testing.assert_array_equal(answers.vectors, [[-1, 1]])
    assert answers.n_tokens == (9,)


@pytest.mark.parametrize(
    ("reply_", "message"),
    [
        (rerank_reply([(0, 1.0)]), "1 scores, expected 2"),
        (rerank_reply([(0, 1.0), (0, 2.0)]), "scores"),
        (rerank_reply([(0, 1.0), (1, float("nan"))]), "finite"),
        (b'{"data": []}', "not a rerank reply"),
    ],
)
def test_a_wrong_rerank_reply_is_refused(reply_, message):
    with pytest.raises(EngineFailure, match=message):
        read_rerank_replies([reply_], [2])
