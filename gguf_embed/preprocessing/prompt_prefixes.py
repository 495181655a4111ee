"""A model's own prompts for queries, documents and tasks: which ones it has, and which one a request means.

A prompt is a prefix. Text after the input, or an instruction inside a template, is up to the client.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from gguf_embed.errors import ConfigError, InvalidInput, InvalidRequest, WayOut
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.types import AppliedPrompt, Input, PromptChoice

METADATA_PREFIX = "gguf-embed.prompt."
"""Our own GGUF keys: llama.cpp's converter writes none for a model's prompts."""

LITERAL_PARAM = "prompt_name"
"""The request's field whose value must be one of the model's prompt names, as in sentence-transformers and TEI."""

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
"""The dialects' names for prompts, one line per meaning.

In requests: Cohere and Nomic search_query, search_document, classification, clustering; NVIDIA query, passage;
Voyage query, document; Jina retrieval.query, retrieval.passage, text-matching, separation, code.query, code.passage;
Google RETRIEVAL_QUERY, RETRIEVAL_DOCUMENT, SEMANTIC_SIMILARITY, QUESTION_ANSWERING, FACT_VERIFICATION,
CODE_RETRIEVAL_QUERY. In models: query; document, passage or corpus (which sentence-transformers' `encode_document`
tries); web_search_query (E5-Mistral); s2p_query (Stella); STS, and InstructionRetrieval for code (EmbeddingGemma).
"""

_SEPARATORS = re.compile(r"[\W_]+")
_PLACEHOLDER = re.compile(r"\{\w*\}")
_MAX_SHOWN = 60  # characters of a client's value repeated in a message


def profile(flags: Mapping[str, str], file: Mapping[str, str], catalog: Mapping[str, str]) -> dict[str, str]:
    """All prompts of a model. For each name, flags take precedence over the file, and the file over the catalog."""
    merged: dict[str, str] = {}
    for source in (catalog, file, flags):
        replaced = {_key(name) for name in source}
        merged = {name: text for name, text in merged.items() if _key(name) not in replaced} | dict(source)
    return merged


def prompts_of_header(header: GgufHeader) -> dict[str, str]:
    """The prompts in the file itself: its string values under `gguf-embed.prompt.<name>`."""
    return {
        key.removeprefix(METADATA_PREFIX): value
        for key, value in header.metadata.items()
        if key.startswith(METADATA_PREFIX) and key != METADATA_PREFIX and isinstance(value, str)
    }


def parse_flag(text: str) -> tuple[str, str]:
    """Read `--prompt NAME=TEXT` into a name and a prefix, which keeps its spaces.

    An empty TEXT means that the model wants no prefix for this name. Raises `ConfigError`.
    """
    name, equals, prefix = text.partition("=")
    name = name.strip()
    if not equals or not _key(name):
        raise ConfigError(f'--prompt {text!r}: write NAME=TEXT, for example --prompt "query=search_query: "')
    if found := _PLACEHOLDER.search(prefix):
        raise ConfigError(f"--prompt {name}: TEXT is a plain prefix without placeholders; leave {found[0]} out")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"--prompt {text!r} is not valid UTF-8") from exc
    return name, prefix


def names_tried(word: str) -> tuple[str, ...]:
    """The prompt names to look up for a request's word, in order: the word itself, then its synonyms."""
    return (word, *(name for name in _meaning(word) if _key(name) != _key(word)))


def same_meaning(one: str, other: str) -> bool:
    """Whether two words ask for the same prompt with every model."""
    return _key(one) == _key(other) or (_meaning(one) != () and _meaning(one) == _meaning(other))


def choose(choice: PromptChoice | None, prompts: Mapping[str, str]) -> AppliedPrompt | None:
    """The prompt for a request, from a model's profile. None if the request asks for none.

    `AppliedPrompt(None, "")` means that the word is known but the profile has no prompt for it, so none is added.
    Clients in Cohere's, NVIDIA's and Voyage's style send `input_type` to every model, so the words for a query or a
    document are always accepted (as in sentence-transformers' `encode_query`). The other words of `SAME_MEANING` are
    accepted if the profile has no text at all. Any other word, and a `prompt_name` that the model lacks, raises
    `InvalidRequest` with the names that the model has.
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


def task_of(prompt: AppliedPrompt | None, tasks: Sequence[str]) -> int:
    """The number of the model's task that is named like the prompt, counted from 1; 0 if there is none."""
    if prompt is None or prompt.name is None:
        return 0
    wanted = _key(prompt.name)
    return next((number for number, task in enumerate(tasks, 1) if _key(task) == wanted), 0)


def apply(prompt: AppliedPrompt | None, inputs: tuple[Input, ...]) -> tuple[Input, ...]:
    """Put the prompt before each text. The result is one string, so that special tokens come once, before the prompt.

    In a tuple the prompt is joined to a text at the beginning. Raises `InvalidInput` for a tuple that begins with a
    token id, unless there is no prompt to add.
    """
    if prompt is None or not prompt.text:
        return inputs
    return tuple(_prefixed(prompt.text, item, index) for index, item in enumerate(inputs))


def _prefixed(prefix: str, item: Input, index: int) -> Input:
    if isinstance(item, str):
        return prefix + item
    first = item[0] if item else None
    if not isinstance(first, str):
        raise InvalidInput(
            index,
            " begins with a token id, and a prompt can only be put before a text: send the text, or leave the prompt "
            "out",
        )
    return (prefix + first, *item[1:])


def _find(word: str, prompts: Mapping[str, str]) -> str | None:
    """The profile's own spelling of a name."""
    if word in prompts:
        return word
    return next((name for name in prompts if _key(name) == _key(word)), None)


def _may_lack(word: str, prompts: Mapping[str, str]) -> bool:
    meaning = _meaning(word)
    return meaning in (QUERY_NAMES, DOCUMENT_NAMES) or (meaning != () and not any(prompts.values()))


def _meaning(word: str) -> tuple[str, ...]:
    """The word's line of `SAME_MEANING`; empty for an unknown word."""
    key = _key(word)
    return next((names for names in SAME_MEANING if any(_key(name) == key for name in names)), ())


def _key(name: str) -> str:
    """The form in which names are compared: "Retrieval-query", "retrieval.query" and "RETRIEVAL_QUERY" are equal."""
    return _SEPARATORS.sub("", name.casefold())


def _unknown(word: str, param: str, prompts: Mapping[str, str]) -> InvalidRequest:
    shown = word if len(word) <= _MAX_SHOWN else word[:_MAX_SHOWN] + "…"
    if prompts:
        listed = ", ".join(f'"{name}"' for name in prompts)
        message, ways_out = f'this model has no prompt "{shown}", only {listed}', [WayOut.PROMPT_YOURSELF]
    else:
        message = f'no prompts are known for this model, so there is no "{shown}"'
        ways_out = [WayOut.PROMPT_YOURSELF, WayOut.NAME_PROMPT]
    return InvalidRequest(message, param, ways_out=ways_out)
