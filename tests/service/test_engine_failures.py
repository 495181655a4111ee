"""Texts that the engine fails on, among others in a request."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.engines.fake import FakeScript
from gguf_embed.errors import EngineFailure, Unavailable
from gguf_embed.types import OutputSpec, Pooling, RerankRequest
from tests.service.test_service import serving

POISON = FakeScript(poison=frozenset(b"!"), nan=frozenset(b"?"))


@pytest.mark.parametrize("fields", [{}, {"return_tokens": True}, {"pooling": Pooling.NONE}])
@pytest.mark.parametrize("bad", ["x!", "x?"])
def test_the_first_error_has_its_index_in_the_request(models, bad, fields):
    with serving(models, script=POISON) as running:
        with pytest.raises(EngineFailure, match="input 3: ") as caught:
            running.embed("a", "a", "b", bad, "also!", **fields)
        assert caught.value.index == 3
        assert len(running.embed("a", "b", **fields).output.offsets) == 3


def test_with_skip_repeated_inputs_fail_at_all_of_their_indexes(models):
    with serving(models, script=POISON) as running:
        result = running.embed("a", "x!", "y?", "b", "x!", on_error="skip")
        assert [failure.index for failure in result.failures] == [1, 2, 4]
        assert [failure.error.message[:8] for failure in result.failures] == ["input 1:", "input 2:", "input 4:"]
        np.testing.assert_array_equal(result.output.matrix, running.embed("a", "b").output.matrix)


def test_a_long_text_of_which_a_window_fails_fails(models):
    with serving(models, script=POISON) as running:
        result = running.embed("a" * 40, "b" * 40 + "!", on_error="skip", long_input="chunk_mean")
    assert [failure.index for failure in result.failures] == [1]
    assert [text.index for text in result.windowed] == [0]


def test_a_dead_worker_is_not_a_failure_of_a_single_text(models):
    with serving(models, script=FakeScript(deadly=frozenset(b"!"))) as running, pytest.raises(Unavailable):
        running.embed("a", "x!", on_error="skip")


RANKING = FakeScript(poison=frozenset(b"!"), nan=frozenset(b"?"), n_cls_out=1, pooling=Pooling.RANK)


@pytest.mark.parametrize("fields", [{}, {"method": "embedding", "output": OutputSpec.of(Pooling.MEAN)}])
@pytest.mark.parametrize("bad", ["x!", "x?"])
def test_an_engine_failure_names_the_document_by_its_index(models, bad, fields):
    request = RerankRequest("q", ("a", "a", "b", bad, "also!"), **fields)
    with serving(models, pooling=Pooling.RANK, script=RANKING) as running:
        with pytest.raises(EngineFailure, match=r"^document 3: ") as caught:
            running.run(running.service.rerank(request))
        assert caught.value.index == 3


def test_a_query_that_the_engine_fails_on_is_named(models):
    request = RerankRequest("q!", ("a",), method="embedding", output=OutputSpec.of(Pooling.MEAN))
    with serving(models, script=POISON) as running, pytest.raises(EngineFailure, match=r"^the query: "):
        running.run(running.service.rerank(request))
