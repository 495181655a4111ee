"""The models that are named at the start: each once, and each by its own name."""

from __future__ import annotations

from pathlib import Path

import pytest

from gguf_embed.config import ModelConfig
from gguf_embed.errors import ConfigError
from gguf_embed.model_store.locate import LocatedModel
from gguf_embed.service.open import distinct


def named(path: str, *aliases: str) -> tuple[LocatedModel, ModelConfig]:
    return LocatedModel(Path(path), Path(path).stem), ModelConfig(aliases=aliases)


@pytest.mark.parametrize(
    ("models", "name"),
    [
        ([named("d1/m.gguf"), named("d2/m.gguf")], "'m' (d1/m.gguf and d2/m.gguf)"),
        ([named("q8.gguf", "a"), named("y.gguf", "A")], "'A' (q8.gguf and y.gguf)"),
        ([named("x.gguf"), named("y.gguf", "x")], "'x' (x.gguf and y.gguf)"),
    ],
)
def test_two_models_of_one_name_are_refused(models, name):
    with pytest.raises(ConfigError, match="give one of them another name with -m NAME=FILE") as caught:
        distinct(models)
    assert f"two models are called {name}" in caught.value.message


def test_a_file_that_is_named_twice_is_one_model():
    first, again, other = named("m.gguf"), named("d/../m.gguf"), named("m.gguf", "b")
    assert distinct([first, again, other]) == (first, other)
