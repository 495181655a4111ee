"""The model's own prefixes for queries, documents and tasks: which ones it has, and which one a request means.

Prefixes only: words that go after the text, or an instruction inside a template, are for the caller to write.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguf_embed.errors import ConfigError, InvalidInput, InvalidRequest, WayOut
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import AppliedPrompt, Input, PromptChoice

METADATA_PREFIX = "gguf-embed.prompt."
"""Our own GGUF keys: llama.cpp's converter writes none for a model's prompts."""

LITERAL_PARAM = "prompt_name"
"""The request's field whose word must be a name that the model has, as in sentence-transformers and TEI."""

QUERY_NAMES = ("query", "search_query", "retrieval_query", "web_search_query", "s2p_query")
DOCUMENT_NAMES = ("document", "passage", "search_document", "retrieval_document", "retrieval_passage", "corpus")

SAME_MEANING: tuple[tuple[str, ...], ...] = (
    QUERY_NAMES,
    DOCUMENT_NAMES,
    ("classification",),
    ("clustering", "separation"),
    ("semantic_similarity", "sentence_similarity", "text_matching", "sts"),
    ("question_answering",),
    ("fact_verification", "fact_checking"),
    ("code_retrieval_query", "code_query", "code_retrieval", "instruction_retrieval"),
    ("code_document", "code_passage"),
)
"""The words of the dialects, one line per meaning. `names_tried` reads it.

Requests say: Cohere and Nomic search_query, search_document, classification, clustering; NVIDIA query, passage;
Voyage query, document; Jina retrieval.query, retrieval.passage, text-matching, separation, code.query, code.passage;
Google RETRIEVAL_QUERY, RETRIEVAL_DOCUMENT, SEMANTIC_SIMILARITY, QUESTION_ANSWERING, FACT_VERIFICATION,
CODE_RETRIEVAL_QUERY. Models call them: query; document, passage or corpus (what sentence-transformers'
`encode_document` tries); web_search_query (E5-Mistral); s2p_query (Stella); STS and InstructionRetrieval, for code
(EmbeddingGemma).
"""

_SEPARATORS = re.compile(r"[\W_]+")
_PLACEHOLDER = re.compile(r"\{\w*\}")
_MAX_SHOWN = 60  # characters of a client's word repeated in a message


def profile(flags: Mapping[str, str], file: Mapping[str, str], catalog: Mapping[str, str]) -> dict[str, str]:
    """All prefixes of a model. Name by name, a flag's text beats the file's, which beats the catalog's."""
    merged: dict[str, str] = {}
    for source in (catalog, file, flags):
        replaced = {_key(name) for name in source}
        merged = {name: text for name, text in merged.items() if _key(name) not in replaced} | dict(source)
    return merged


def prompts_of_header(header: GgufHeader) -> dict[str, str]:
    """What the file itself says: its string values under `gguf-embed.prompt.<name>`."""
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in header.metadata.items()
        if key.startswith(METADATA_PREFIX) and key != METADATA_PREFIX and isinstance(value, str)
    }


def parse_flag(text: str) -> tuple[str, str]:
    """Read `--prompt NAME=TEXT`: name and prefix, the latter to the letter, its last space included.

    An empty TEXT says that the model wants nothing there. Raises `ConfigError`.
    """
    name, equals, prefix = text.partition("=")
    name = name.strip()
    if not equals or not _key(name):
        raise ConfigError(f'--prompt {text!r}: write NAME=TEXT, for example --prompt "query=search_query: "')
    if found := _PLACEHOLDER.search(prefix):
        raise ConfigError(f"--prompt {name}: TEXT is put before each text as it is; leave {found[0]} out")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"--prompt {text!r}: is not valid UTF-8") from exc
    return name, prefix


def names_tried(word: str) -> tuple[str, ...]:
    """The profile names that a request's word may mean, in the order they are looked for: itself, then its synonyms."""
    return (word, *(name for name in _meaning(word) if _key(name) != _key(word)))


def same_meaning(one: str, other: str) -> bool:
    """Whether two words ask for the same prefix, whatever the model."""
    return _key(one) == _key(other) or (_meaning(one) != () and _meaning(one) == _meaning(other))


def choose(choice: PromptChoice | None, prompts: Mapping[str, str]) -> AppliedPrompt | None:
    """The prefix that a request gets from a model's profile; None when it asked for none.

    `AppliedPrompt(None, "")`: a known word was asked for, the profile has no prefix for it, and nothing is added.
    Clients in Cohere's, NVIDIA's and Voyage's style send `input_type` to every model, so a query or a document is
    never refused (sentence-transformers' `encode_query` does the same), and the other words of `SAME_MEANING` are
    not where the profile holds no text at all. Any other word, and a `prompt_name` that the model lacks, raises
    `InvalidRequest` naming what the model has.
    """
    if choice is None or choice.text == "":
        return None
    if choice.text is not None:
        return AppliedPrompt(None, choice.text)
    assert choice.name is not None, choice
    literal = choice.param == LITERAL_PARAM
    for word in (choice.name,) if literal else names_tried(choice.name):
        name = _find(word, prompts)
        if name is not None:
            return AppliedPrompt(name, prompts[name])
    if not literal and _may_lack(choice.name, prompts):
        return AppliedPrompt(None, "")
    raise _unknown(choice.name, choice.param, prompts)


def apply(prompt: AppliedPrompt | None, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Put the prefix before each text, as one string, so that special tokens come once, before the prefix.

    In a tuple it joins the text that comes first. Raises `InvalidRequest`, naming the input, for one that begins
    with a token id, unless there is nothing to add.
    """
    if prompt is None or not prompt.text:
        return inputs
    return tuple(_prefixed(prompt.text, text, index) for index, text in enumerate(inputs))


def _prefixed(prefix: str, text: Input, index: int) -> Input:
    if isinstance(text, str):
        return prefix + text
    first = text[0] if text else None
    if not isinstance(first, str):
        raise InvalidInput(
            index,
            " begins with a token id, and a prompt can only be put before a text: "
            "send the text, or leave the prompt out",
        )
    return (prefix + first, *text[1:])


def _find(word: str, prompts: Mapping[str, str]) -> str | None:
    """The profile's own spelling of a name."""
    if word in prompts:
        return word
    return next((name for name in prompts if _key(name) == _key(word)), None)


def _may_lack(word: str, prompts: Mapping[str, str]) -> bool:
    meaning = _meaning(word)
    return meaning in (QUERY_NAMES, DOCUMENT_NAMES) or (meaning != () and not any(prompts.values()))


def _meaning(word: str) -> tuple[str, ...]:
    """The word's line of `SAME_MEANING`; empty for a word of no dialect."""
    key = _key(word)
    return next((names for names in SAME_MEANING if any(_key(name) == key for name in names)), ())


def _key(name: str) -> str:
    """What is compared: "Retrieval-query", "retrieval.query" and "RETRIEVAL_QUERY" are the same."""
    return _SEPARATORS.sub("", name.casefold())


def _unknown(word: str, param: str, prompts: Mapping[str, str]) -> InvalidRequest:
    shown = word if len(word) <= _MAX_SHOWN else word[:_MAX_SHOWN] + "…"
    if prompts:
        listed = ", ".join(f'"{name}"' for name in prompts)
        has, ways_out = f"this model has the prompts {listed}: send one of them", [WayOut.PROMPT_YOURSELF]
    else:
        has, ways_out = "no prompts are known for this model", [WayOut.PROMPT_YOURSELF, WayOut.NAME_PROMPT]
    return InvalidRequest(f'"{param}" is "{shown}", but {has}', param, ways_out=ways_out)
