"""Flags that the place of the model would ignore are refused."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from gguf_embed.cli.ingest_model import open_job_pool, open_pool
from gguf_embed.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Flags:
    model: str | None = None
    endpoint: tuple[str, ...] = ()
    api_key: str | None = None
    input_type: str | None = None
    pooling: str | None = None
    dimensions: int | None = None
    truncate: bool = False
    vectors: str = "dense"
    muvera: str | None = None
    runner: str = "local"
    ray_address: str | None = None


SERVER = ("http://127.0.0.1:1",)


@pytest.mark.parametrize("open_", [open_pool, open_job_pool])
def test_a_server_has_its_own_pooling(open_):
    with pytest.raises(ConfigError, match="leave it out, or start that server with --pooling cls"):
        open_(Flags(endpoint=SERVER, pooling="cls"))


@pytest.mark.parametrize("open_", [open_pool, open_job_pool])
def test_a_key_needs_an_endpoint(open_):
    with pytest.raises(ConfigError, match="--api-key is for an --endpoint"):
        open_(Flags(api_key="k"))


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (Flags(runner="ray", endpoint=SERVER), "give only one of them"),
        (Flags(runner="ray", api_key="k"), "--api-key is for an --endpoint"),
        (Flags(runner="ray", pooling="cls"), "leave --pooling out"),
        (Flags(ray_address="auto"), "--ray-address needs --runner ray"),
    ],
)
def test_a_cluster_needs_neither(flags, words):
    with pytest.raises(ConfigError, match=words):
        open_job_pool(flags)
