"""Parses the requested prompt (`input_type`, `task`, `prompt_name`, `prompt`), and formats it for the reply.

All dialects accept these fields. `gguf_embed.preprocessing.prompt_prefixes` decides what a word means for a model.
"""

from __future__ import annotations

import itertools

from gguf_embed.errors import InvalidRequest
from gguf_embed.preprocessing.prompt_prefixes import LITERAL_PARAM, same_meaning
from gguf_embed.server.fields.field import Body, Text, has
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.types import AppliedPrompt, PromptChoice

MAX_PROMPT_CHARACTERS = 10_000
"""A prompt is put before thousands of texts. This limits the total to 20 MB for `--max-inputs` texts."""

NOTHING_ADDED = "nothing was added: the model's profile has no prompt of this kind"

_NOT_BLANK = {"pattern": "\\S"}
_STRING = {"type": "string"}
INPUT_TYPE = Text(
    "input_type",
    "`query`, `document` or another known word, or the name of one of the model's prompts. As in Cohere, "
    "NVIDIA and Voyage.",
    limits=_NOT_BLANK,
)
TASK = Text("task", "The same, as in Jina, Google and Nomic.", limits=_NOT_BLANK)
PROMPT_NAME = Text(
    LITERAL_PARAM,
    "Only the name of one of the model's prompts, as in sentence-transformers and TEI.",
    limits=_NOT_BLANK,
)
PROMPT = Text(
    "prompt",
    f"The prefix itself, used literally, up to {MAX_PROMPT_CHARACTERS:,} characters; empty: none. As in "
    "sentence-transformers and Mixedbread.",
    limits={"maxLength": MAX_PROMPT_CHARACTERS},
)
PROMPT_WORDS = Body(
    "PromptWords",
    (INPUT_TYPE, TASK, PROMPT_NAME),
    "Each of these fields selects a prompt (prefix) that is added before every text; send one of them. By default, "
    "none is added.",
    see="Prompts",
)
"""For routes on which `prompt` is the text."""

PROMPT_FIELDS = Body(
    "PromptFields",
    (INPUT_TYPE, TASK, PROMPT_NAME, PROMPT),
    PROMPT_WORDS.text,
    rules={
        "not": {"anyOf": [has({"prompt": _STRING, word.name: _STRING}) for word in (INPUT_TYPE, TASK, PROMPT_NAME)]}
    },
    see="Prompts",
)
FIELDS = tuple(field.name for field in PROMPT_FIELDS.fields)


def parse_prompt_choice(body: JsonObject, *, prompt_is_text: bool = True) -> PromptChoice | None:
    """Parse the four fields; None if all are absent. If `prompt` is the input itself, pass `prompt_is_text=False`.

    Several fields may have the same meaning ("query" and "retrieval.query"); then the most specific one is used. Raises
    `InvalidRequest` for a field that is not a string, is empty or too long, and for two that contradict each other.
    """
    words = ((field.name, _word(body, field)) for field in (INPUT_TYPE, TASK, PROMPT_NAME))  # the last is most specific
    choices = [PromptChoice(name=word, param=field) for field, word in words if word is not None]
    text = _text(body) if prompt_is_text else None
    if text is not None:
        choices.append(PromptChoice(text=text, param=PROMPT.name))
    for one, other in itertools.pairwise(choices):
        if one.name is None or other.name is None or not same_meaning(one.name, other.name):
            raise InvalidRequest(
                f'"{one.param}" ({describe(body[one.param])}) and "{other.param}" ({describe(body[other.param])}) '
                "ask for different prompts: send only one of them",
                other.param,
            )
    return choices[-1] if choices else None


def format_applied_prompt(prompt: AppliedPrompt | None) -> dict[str, object] | None:
    """The reply's field "prompt"; None if the request asked for no prompt and the field is left out."""
    if prompt is None:
        return None
    written: dict[str, object] = {"name": prompt.name, "text": prompt.text}
    nothing_known = prompt.name is None and not prompt.text
    return written | {"note": NOTHING_ADDED} if nothing_known else written


def _word(body: JsonObject, field: Text) -> str | None:
    word = field.read(body)
    if word is not None and not word.strip():
        raise InvalidRequest(f'"{field.name}" is empty: name a prompt, or leave the field out', field.name)
    return word


def _text(body: JsonObject) -> str | None:
    text = PROMPT.read(body)
    if text is not None and len(text) > MAX_PROMPT_CHARACTERS:
        raise InvalidRequest(
            f'"{PROMPT.name}" has {len(text):,} characters, the limit is {MAX_PROMPT_CHARACTERS:,}: '
            "put the prompt before your texts yourself",
            PROMPT.name,
        )
    return text
