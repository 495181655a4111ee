"""The original tokenizer of WordPiece models, rebuilt from the vocabulary in a GGUF.

llama.cpp's WordPiece gives other ids than the original for Korean, Hindi and words of more than 100 characters
(`docs/architecture.md` has the numbers). The ids are therefore made by the `tokenizers` package, as in the original.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.tokenization.offsets import MAX_OFFSET_CHARACTERS
from gguf_embed.tokenization.unicode import valid_unicode
from gguf_embed.types import Span, Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer as HfTokenizer
    from tokenizers.models import WordPiece

WORD_START: Final = "▁"  # llama.cpp's mark for an entry that begins a word
MAX_WORD_CHARS: Final = 100  # BERT's own: a longer word becomes one unknown token
ODD_ENTRIES_PER_THOUSAND: Final = 1  # an uncased vocabulary may have a few cased entries

_FILLER: Final = re.compile(r"\[(unused|PAD|EMPTY_)\d+\]")  # placeholders


@dataclass(frozen=True, slots=True)
class Casing:
    """How a text is normalized before it is split. The two flags are equal in most models, but not in all."""

    lowercase: bool
    strip_accents: bool  # decompose (also Hangul), then drop the combining marks


@dataclass(frozen=True, slots=True)
class WordPieceRules:
    """A vocabulary in the original's form: `##` continues a word, special tokens are unchanged."""

    ids: dict[str, int]  # entry to id
    unknown: str  # the entry for words that cannot be split
    opening_id: int  # [CLS]
    closing_id: int  # [SEP]
    specials: tuple[str, ...]  # recognized wherever they are written in a text
    casing: Casing


class ExactWordPiece:
    """Text to the ids that the original model's tokenizer gives. Safe from any thread; releases the GIL."""

    name = "exact"
    max_offset_characters = MAX_OFFSET_CHARACTERS

    def __init__(self, vocabulary: Vocabulary) -> None:
        """Takes about 25 ms for 30,000 entries, and 20 ms more for the first in a process (the import).

        Sets TOKENIZERS_PARALLELISM to false in the environment if it is not set: its thread pool would compete with
        the workers, and would print a warning in every process forked from this one.
        Raises `ModelFileError` if the vocabulary lacks tokens that WordPiece requires.
        """
        rules = wordpiece_rules(replace(vocabulary, entries=tuple(vocabulary.entries)))
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.casing = rules.casing
        self._tokenizer, self._literal = _build(rules)

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = True) -> list[int]:
        """The ids of one text. Without `parse_special`, "[SEP]" in it is ordinary text."""
        tokenizer = self._tokenizer if parse_special else self._literal
        # a batch of one, because the package's `encode` keeps the GIL and computes offsets that are not needed
        ids: list[int] = tokenizer.encode_batch_fast([valid_unicode(text)], add_special_tokens=add_special)[0].ids
        return ids

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[Span | None]]:
        """The ids with special tokens, and offsets, which include characters dropped inside a word, such as NUL."""
        encoding = self._tokenizer.encode(valid_unicode(text))
        added = zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        return encoding.ids, [None if is_added else span for span, is_added in added]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for each text, in order, in one call without the GIL."""
        valid = [text if text.isascii() else valid_unicode(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(valid, add_special_tokens=True)
        return [encoding.ids for encoding in encodings]


def wordpiece_rules(vocabulary: Vocabulary) -> WordPieceRules:
    """Convert llama.cpp's form of a WordPiece vocabulary back to the original's.

    If two entries become the same, the later id wins, as when a vocab.txt is read, but [UNK], [CLS] and [SEP] win over
    both. Raises `ModelFileError` if one of these three is missing.
    """
    required = required_ids(vocabulary)
    bracketed = _bracketed_ids(vocabulary.entries)
    as_written = bracketed | set(required.values())
    words = [_original_form(entry, token in as_written) for token, entry in enumerate(vocabulary.entries)]
    ids = {word: token for token, word in enumerate(words)}
    ids |= {words[token]: token for token in required.values()}
    return WordPieceRules(
        ids=ids,
        unknown=words[required["unknown"]],
        opening_id=required["opening"],
        closing_id=required["closing"],
        specials=tuple(words[token] for token in sorted(_special_ids(vocabulary, bracketed))),
        casing=casing_of([word for token, word in enumerate(words) if token not in bracketed]),
    )


def required_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """The ids that WordPiece cannot do without: "unknown", "opening", "closing".

    Raises `ModelFileError` if the vocabulary lacks one of them.
    """
    roles = {"unknown": vocabulary.unk_id, "opening": vocabulary.bos_id, "closing": _sep(vocabulary)}
    return {role: _required_id(vocabulary, role, token) for role, token in roles.items()}


def _original_form(entry: str, is_special: bool) -> str:
    if entry.startswith(WORD_START):
        return entry[1:]
    return entry if is_special else "##" + entry


def casing_of(words: Sequence[str]) -> Casing:
    """Infer from a vocabulary how texts are normalized, because GGUFs rarely declare it.

    An entry that normalization would change could never match. So a vocabulary made after lowercasing (or after
    stripping accents) has no such entries: none of the 30,522 of BERT uncased. Capital letters indicate a cased one;
    precomposed Hangul, Hindi vowel signs, "é" or "й" indicate that accents were kept. More than 1 entry in 1,000
    decides.
    """
    limit = len(words) * ODD_ENTRIES_PER_THOUSAND / 1000
    n_cased = sum(word.lower() != word for word in words)
    n_accented = sum(_strip_accents(word) != word for word in words if not word.isascii())
    lowercase = n_cased <= limit
    return Casing(lowercase=lowercase, strip_accents=lowercase and n_accented <= limit)


def _strip_accents(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _sep(vocabulary: Vocabulary) -> int | None:
    return vocabulary.sep_id if vocabulary.sep_id is not None else vocabulary.eos_id


def _required_id(vocabulary: Vocabulary, role: str, token: int | None) -> int:
    if token is None or not 0 <= token < len(vocabulary.entries):
        raise ModelFileError(
            f"the model's WordPiece vocabulary of {len(vocabulary.entries)} entries has no {role} token (id {token}), "
            "so its original tokenizer cannot be rebuilt",
            [WayOut.LLAMA_TOKENIZER],
        )
    return token


def _bracketed_ids(entries: Sequence[str]) -> set[int]:
    """Ids of the entries in the form of special tokens, "[SEP]", "</s>" or "[Q] ", with or without the word mark."""
    closed = [
        (token, entry.removeprefix(WORD_START).rstrip(" "))
        for token, entry in enumerate(entries)
        if entry[-1:] in ("]", ">", " ")
    ]
    return {token for token, word in closed if len(word) > 2 and word[0] + word[-1] in ("[]", "<>")}


def _special_ids(vocabulary: Vocabulary, bracketed: set[int]) -> Iterator[int]:
    """Ids of the tokens that are recognized when written in a text, such as "[SEP]".

    llama.cpp's converter does not add the word mark to them. Older versions did not add it to any bracketed entry, not
    even to [unusedN], which are ordinary entries in the original: a file with a marked [unusedN] is from a newer one.
    """
    declared = {vocabulary.unk_id, vocabulary.bos_id, vocabulary.sep_id, vocabulary.eos_id}
    declared |= {vocabulary.pad_id, vocabulary.mask_id}
    entries = {token: vocabulary.entries[token] for token in bracketed}
    marks_unused = any(entry.startswith(f"{WORD_START}[unused") for entry in entries.values())
    for token, entry in entries.items():
        filler = _FILLER.fullmatch(entry)
        named = filler is None or (marks_unused and filler[1] == "unused")
        if token in declared or (named and not entry.startswith(WORD_START)):
            yield token


def _build(rules: WordPieceRules) -> tuple[HfTokenizer, HfTokenizer]:
    """BERT's pipeline with these rules: one that recognizes special tokens in a text, and one that does not.

    They share the vocabulary, so the second takes hardly any time or memory. Building it from a dict is faster than
    from JSON: 11 ms instead of 15 ms.
    """
    # imported here to save 20 ms in a process without WordPiece models
    from tokenizers import AddedToken, models

    model = models.WordPiece(vocab=rules.ids, unk_token=rules.unknown, max_input_chars_per_word=MAX_WORD_CHARS)
    tokenizer, literal = _pipeline(model, rules), _pipeline(model, rules)
    tokenizer.add_special_tokens([AddedToken(word, normalized=False, special=True) for word in rules.specials])
    return tokenizer, literal


def _pipeline(model: WordPiece, rules: WordPieceRules) -> HfTokenizer:
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=rules.casing.strip_accents,
        lowercase=rules.casing.lowercase,
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(  # these names are local, only the ids matter
        single=["[CLS]", "$A", "[SEP]"],
        pair=["[CLS]", "$A", "[SEP]", "$B:1", "[SEP]:1"],
        special_tokens=[("[CLS]", rules.opening_id), ("[SEP]", rules.closing_id)],
    )
    return tokenizer
