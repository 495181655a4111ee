"""An error names all inputs that are too long or have a wrong type, not only the first."""

from __future__ import annotations

import pickle

import pytest

from gguf_embed.embedder.words import shifted
from gguf_embed.errors import DocumentTooLong, InputTooLong, InvalidRequest
from gguf_embed.server.fields.error_position import position_of
from gguf_embed.server.fields.inputs import parse_inputs
from tests.service.test_service import LIMIT, serving


def test_all_texts_that_are_too_long_are_named_with_their_tokens(models):
    long, longer = "x" * 40, "y" * 50
    with serving(models) as running, pytest.raises(InputTooLong) as caught:
        running.embed("short", long, "short", longer, long)
    assert caught.value.message == (
        f"input 1 is too large (42 tokens, the limit per text is {LIMIT}), and so are 3 (52 tokens), 4 (42 tokens)"
    )
    assert position_of(caught.value) == {"index": 1, "n_prompt_tokens": 42, "n_ctx": LIMIT, "indexes": [1, 3, 4]}


def test_of_many_the_first_six_are_named(models):
    with serving(models) as running, pytest.raises(InputTooLong) as caught:
        running.embed(*("x" * (40 + number) for number in range(20)))
    assert caught.value.message.endswith("), 5 (47 tokens) and 14 more")
    assert caught.value.indexes == tuple(range(20))


def test_one_alone_is_named_as_before(models):
    with serving(models) as running, pytest.raises(InputTooLong) as caught:
        running.embed("short", "x" * 40)
    assert caught.value.message == f"input 1 is too large (42 tokens, the limit per text is {LIMIT})"
    assert "indexes" not in position_of(caught.value)


def test_the_numbers_follow_the_texts_into_another_list():
    error = InputTooLong(1, 600, 512, others=[(3, 700)])
    assert shifted(error, 100).message.startswith(
        "input 101 is too large (600 tokens, the limit per text is 512), and so is"
    )
    assert error.renumbered({1: 7, 3: 9}.__getitem__).indexes == (7, 9)
    assert error.spread([0, 1, 2, 3, 1]).indexes == (1, 3, 4)
    assert error.for_document(1).message.startswith(
        "document 1 is too large (600 tokens, the limit per document is 512)"
    )
    assert error.for_document(1).indexes == (1, 3)
    assert pickle.loads(pickle.dumps(error)).indexes == (1, 3)
    assert DocumentTooLong.of([(2, 20), (5, 30)], 16).message.endswith("and so is 5 (30 tokens)")


@pytest.mark.parametrize(
    ("value", "indexes", "ends"),
    [
        (["a", None, "b", None, {"x": 1}], (1, 3, 4), "found null; also wrong: 3, 4"),
        (["a", None], (), "found null"),
        (["a", *[None] * 9], tuple(range(1, 10)), "; also wrong: 2, 3, 4, 5, 6 and 3 more"),
    ],
)
def test_all_entries_of_a_wrong_type_are_named(value, indexes, ends):
    with pytest.raises(InvalidRequest) as caught:
        parse_inputs(value, "input", 100)
    assert caught.value.message.startswith('"input[1]" must be ')
    assert caught.value.message.endswith(ends)
    assert (caught.value.index, caught.value.indexes, caught.value.param) == (1, indexes, "input")
    assert position_of(caught.value) == ({"index": 1, "indexes": list(indexes)} if indexes else {"index": 1})
