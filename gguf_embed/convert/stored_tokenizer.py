"""A tokenizer.json that is stored in the GGUF as it is, for architectures that llama.cpp does not run."""

from __future__ import annotations

import json
from dataclasses import dataclass

import gguf

from gguf_embed.convert.fast_tokenizer import FastTokenizer, read_fast_tokenizer
from gguf_embed.convert.source import ModelSourceDirectory, read_json
from gguf_embed.convert.special_tokens import SpecialTokensTemplate, read_special_tokens, write_special_tokens
from gguf_embed.convert.vocabulary import VocabularyEntry, VocabularyTable, build_table
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.static_format import HUGGINGFACE_TOKENIZER, TOKENIZER_JSON


@dataclass(frozen=True, slots=True)
class StoredTokenizerPlan:
    """Implements `VocabularyPlan`."""

    source: str
    table: VocabularyTable
    template: SpecialTokensTemplate
    roles: dict[str, int]
    notes: tuple[str, ...] = ()

    @property
    def n_tokens(self) -> int:
        return len(self.table.entries)

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(HUGGINGFACE_TOKENIZER)
        writer.add_string(TOKENIZER_JSON, self.source)
        self.table.write(writer, scores=False)
        write_special_tokens(writer, self.template, self.roles)


def read_stored_tokenizer(source: ModelSourceDirectory, n_vocab: int) -> StoredTokenizerPlan:
    """Read `tokenizer.json`, with ids for `n_vocab` rows of token embeddings.

    Raises `ModelFileError` if there is none, for an id out of range, and if more than one token is put before or after
    a text.
    """
    path = source.path / "tokenizer.json"
    if not path.is_file():
        raise ModelFileError(
            f"{source.path} has no tokenizer.json; "
            "transformers writes it with AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
        )
    content = read_json(path)
    try:
        fast = read_fast_tokenizer(source)
        table = build_table(path, _entries(fast), n_vocab)
        template = read_special_tokens(fast)
    except (LookupError, TypeError, ValueError, AttributeError) as exc:
        raise ModelFileError(f"{path} is malformed ({type(exc).__name__}: {exc}); download it again") from exc
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return StoredTokenizerPlan(text, table, template, fast.roles)


def _entries(fast: FastTokenizer) -> dict[int, VocabularyEntry]:
    vocab = fast.model["vocab"]
    texts = dict(vocab) if isinstance(vocab, dict) else {text: token for token, (text, _) in enumerate(vocab)}
    entries = {int(token): VocabularyEntry(str(text), gguf.TokenType.NORMAL) for text, token in texts.items()}
    for added in fast.added:
        kind = gguf.TokenType.CONTROL if added.special else gguf.TokenType.USER_DEFINED
        entries[added.id] = VocabularyEntry(added.text, kind)
    return entries
