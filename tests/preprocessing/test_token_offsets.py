"""Places are found no further than tokens are read, and are those of the whole text."""

from __future__ import annotations

from contextlib import closing
from random import Random

import pytest

from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.token_offsets import OffsetMapper, check_offset_budget
from gguf_embed.preprocessing.tokenizers import LlamaTokenizer, Tokenizer, choose_tokenizer, special_tokens_of
from gguf_embed.preprocessing.tokens import truncate_tokens
from gguf_embed.tokenization.offsets import MAX_ALIGNED_CHARACTERS, MAX_OFFSET_CHARACTERS
from gguf_embed.types import Span
from tests.gguf_models import write_tiny_decoder, write_tiny_encoder

LETTERS = "abc dogÉ中한☃  ,'the cat hello\n"


class Counting:
    """A tokenizer that counts the characters for which offsets were requested."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.name, self.max_offset_characters = tokenizer.name, tokenizer.max_offset_characters
        self.encode, self.encode_batch = tokenizer.encode, tokenizer.encode_batch
        self._tokenizer = tokenizer
        self.n_placed = 0

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        self.n_placed += len(text)
        return self._tokenizer.encode_with_offsets(text)


@pytest.fixture(scope="module", params=["encoder", "encoder as llama.cpp reads it", "decoder"])
def tokenizer(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("placing")
    write = write_tiny_decoder if request.param == "decoder" else write_tiny_encoder
    with closing(LlamaEngine(LlamaEngineConfig(write(folder / "model.gguf")))) as engine:
        exact = choose_tokenizer(engine.codec, None, "auto")
        yield LlamaTokenizer(engine.codec) if "llama" in request.param else exact


@pytest.mark.parametrize("seed", range(5))
def test_offsets_of_a_truncated_text_are_those_in_the_whole_text(tokenizer, seed):
    random = Random(seed)
    n_told = 0
    for _ in range(10):
        text = "".join(random.choices(LETTERS, k=random.randint(100, 400)))
        ids, spans = tokenizer.encode_with_offsets(text)
        kept = truncate_tokens(ids, random.randint(3, len(ids) - 1), special_tokens_of(tokenizer).closing)
        found = OffsetMapper(tokenizer).for_kept(text, kept)
        assert len(found) == len(kept.tokens)
        n_told += sum(span is not None for span in found)
        # what is cut off may leave a token with two possible places; it never moves one
        assert all(one == whole for one, whole in zip(found[:-1], spans, strict=False) if one and whole)
    assert n_told > 50


def test_offsets_are_computed_only_for_the_part_of_a_text_that_is_read(tokenizer):
    counting = Counting(tokenizer)
    text = "the cat hello " * 5_000
    ids = tokenizer.encode(text)
    found = OffsetMapper(counting).for_kept(text, truncate_tokens(ids, 50, special_tokens_of(tokenizer).closing))
    assert sum(span is not None for span in found) >= 45
    assert counting.n_placed < 2_000


def test_offsets_use_the_whole_text_if_its_beginning_has_other_tokens(tokenizer):
    class Backwards(Counting):
        """Tokenizes a text from its end, so that a beginning of it has other tokens."""

        def __init__(self) -> None:
            super().__init__(tokenizer)
            self.encode = lambda text, add_special=True: list(map(ord, reversed(text)))

        def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
            self.n_placed += len(text)
            return self.encode(text), [(index, index + 1) for index in reversed(range(len(text)))]

    counting = Backwards()
    text = "".join(map(chr, range(1000)))
    found = OffsetMapper(counting).for_kept(text, truncate_tokens(counting.encode(text), 10, ()))
    assert found == [(index, index + 1) for index in reversed(range(990, 1000))]
    assert counting.n_placed == 1000


@pytest.mark.parametrize("seed", range(5))
def test_the_tokens_of_a_prompt_are_counted_as_in_the_whole_text(tokenizer, seed):
    random = Random(seed)
    counting = Counting(tokenizer)
    n_opening = len(special_tokens_of(tokenizer).opening)
    prefix = "".join(random.choices(LETTERS, k=random.randint(5, 40))) + "a: "
    text = prefix + "the cat hello " * 300
    ids, spans = tokenizer.encode_with_offsets(text)
    own = enumerate(spans[n_opening:], 1)
    expected = max(count for count, span in own if span and span[1] <= len(prefix))
    assert OffsetMapper(counting).count_within(text, len(prefix), n_opening, ids) == expected
    assert counting.n_placed < 300


def test_a_request_s_texts_share_one_budget(tokenizer):
    counting = Counting(tokenizer)
    counting.max_offset_characters = 1_000
    placing = OffsetMapper(counting)
    text = "hello dog " * 50
    whole = truncate_tokens(tokenizer.encode(text), 10**9, ())
    placing.for_kept(text, whole)
    placing.for_kept(text, whole)
    with pytest.raises(InvalidRequest, match="1,000 characters per request"):
        placing.for_kept("a", truncate_tokens(tokenizer.encode("a"), 10, ()))
    assert counting.n_placed == 1_000


def test_aligning_tokens_has_a_smaller_budget_than_a_tokenizer_s_own_offsets(tokenizer):
    is_aligned = tokenizer.name == "llama"
    assert tokenizer.max_offset_characters == (MAX_ALIGNED_CHARACTERS if is_aligned else MAX_OFFSET_CHARACTERS)


def test_duplicate_inputs_count_towards_the_offset_budget():
    half = "a" * (MAX_OFFSET_CHARACTERS // 2)
    check_offset_budget([half, half])
    with pytest.raises(InvalidRequest, match=r"2,000,000.*2,000,003"):
        check_offset_budget([half, half, (1, 2, 3)])
