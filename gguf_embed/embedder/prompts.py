"""What `prompt=` means: a name in the model's profile, or the text itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from gguf_embed.embedder.server_facts import ServerFacts
from gguf_embed.preprocessing import prompt_prefixes
from gguf_embed.types import PromptChoice

_ONE_WORD = re.compile(r"[\w.-]+")


def prompt_choice(prompt: str | None, prompts: Mapping[str, str]) -> PromptChoice | None:
    """A name of the profile, or a single word, is a name; anything else, such as "query: ", is the text.

    A mistyped name is thus an error and is not put before the texts.
    """
    if not prompt:
        return None
    if prompt in prompts or _ONE_WORD.fullmatch(prompt):
        return PromptChoice(name=prompt, param="prompt")
    return PromptChoice(text=prompt, param="prompt")


def needs_server(prompt: str | None, given: Mapping[str, str]) -> bool:
    """Whether only the server can know the prompt."""
    choice = prompt_choice(prompt, given)
    return choice is not None and choice.name is not None and choice.name not in given


def task_of(prompt: str | None, given: Mapping[str, str], facts: ServerFacts) -> str | None:
    """The server's task that a prompt of its own names, which only the server can compute; None: it names none.

    Raises `InvalidRequest` for a name that the server does not have, except those for queries and documents.
    """
    if not facts.tasks or not needs_server(prompt, given):
        return None
    found = prompt_prefixes.choose(prompt_choice(prompt, facts.prompts), facts.prompts)
    number = prompt_prefixes.task_of(found, facts.tasks)
    return facts.tasks[number - 1] if number else None


def prefix_of(prompt: str | None, given: Mapping[str, str], own: Mapping[str, str]) -> str:
    """The text of a prompt; "" for none. `given` take precedence over the model's `own`.

    Raises `InvalidRequest` for a name that neither has, except those for queries and documents.
    """
    prompts = prompt_prefixes.profile(given, own, {})
    found = prompt_prefixes.choose(prompt_choice(prompt, prompts), prompts)
    return "" if found is None else found.text
