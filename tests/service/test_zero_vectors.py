"""Static models whose rows cancel out: an error that names the input, never a vector of zeros."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import InvalidInput
from gguf_embed.types import Pooling
from tests.running import running
from tests.static_models import write_static

ROWS = {"the": (1, 0), "plus": (0, 1), "minus": (0, -1), "anti": (-1, 0), "nil": (0, 0)}
LONG = " ".join(["the"] * 1000 + ["anti"] * 1000)  # two windows


@pytest.fixture(scope="module")
def static(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    path = write_static(folder / "words.gguf", tuple(ROWS), np.array(tuple(ROWS.values()), np.float32))
    with running(path, ModelConfig(), folder) as service:
        yield service


CASES = [
    (("the", "the", "plus minus"), {}, "input 2: the rows of its tokens .*zero"),
    (("the", "the plus minus"), {"dimensions": 1}, None),
    (("the", "the", "plus"), {"dimensions": 1}, "input 2: the first 1 .*zero"),
    (("the", "plus minus"), {"return_tokens": True}, "input 1: the rows of its tokens .*zero"),
    (("the", "plus"), {"return_tokens": True, "dimensions": 1}, "input 1: the first 1 .*zero"),
    (
        ("the", "the plus minus"),
        {"spans": (((0, 3),), ((0, 3), (4, 14)))},
        r"input 1, span 1 \(characters 4 to 14\): the rows of its tokens .*zero",
    ),
    (("the nil",), {"spans": (((4, 7),),)}, r"input 0, span 0 \(characters 4 to 7\)"),
    (("the", LONG), {"long_input": "chunk_mean"}, "input 1: the vectors of its windows .*zero"),
    (("the", "nil"), {"pooling": Pooling.NONE, "return_tokens": True}, None),
]


@pytest.mark.parametrize(("inputs", "fields", "message"), CASES)
def test_the_error_names_the_input(static, inputs, fields, message):
    if message is None:
        assert len(static.embed(*inputs, **fields).output.matrix) >= len(inputs)
        return
    with pytest.raises(InvalidInput, match=message):
        static.embed(*inputs, **fields)


@pytest.mark.parametrize(("inputs", "fields", "message"), [case for case in CASES if case[2]])
def test_with_skip_the_other_inputs_have_vectors(static, inputs, fields, message):
    result = static.embed(*inputs, on_error="skip", **fields)
    [failure] = result.failures
    assert failure.index == len(inputs) - 1
    assert len(result.output.matrix) == sum(inputs[index] == "the" for index in range(len(inputs) - 1))
    assert result.output.matrix.any(axis=1).all()
