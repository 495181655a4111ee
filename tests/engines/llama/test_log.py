"""llama.cpp's log: which of its lines are shown at which level."""

from __future__ import annotations

import logging

import pytest

from gguf_embed.engines.llama.log import LlamaLog

WARNING = 3  # ggml's


@pytest.mark.parametrize(
    ("line", "level"),
    [
        (b"load: special_eos_id is not in special_eog_ids - the tokenizer config may be incorrect\n", logging.DEBUG),
        (b"something else\n", logging.INFO),
    ],
)
def test_a_warning_that_is_only_about_generating_is_not_shown_with_verbose(caplog, line, level):
    with caplog.at_level(logging.DEBUG, "gguf_embed"):
        LlamaLog().receive(WARNING, line, None)
    assert [record.levelno for record in caplog.records] == [level]
