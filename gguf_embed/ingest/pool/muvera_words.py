"""MUVERA's settings as a flag and as the pooling that a manifest names: "muvera k_sim=5,dim_proj=16,…"."""

from __future__ import annotations

from dataclasses import asdict

from gguf_embed.errors import ConfigError
from gguf_embed.types import MUVERA, Muvera
from gguf_embed.vectors.muvera import MAX_K_SIM

_NAMES = tuple(asdict(Muvera()))


def parse_muvera_flag(flag: str) -> Muvera:
    """The settings of "k_sim=4,r_reps=10"; those that are left out have their defaults. Raises `ConfigError`."""
    found: dict[str, int] = {}
    for part in flag.split(","):
        name, _, value = (word.strip() for word in part.partition("="))
        if name not in _NAMES or not (value.isascii() and value.isdecimal() and len(value) < 10):
            raise ConfigError(f"--muvera {flag}: {part!r} is not NAME=NUMBER, with a name of {', '.join(_NAMES)}")
        if name in found:
            raise ConfigError(f"--muvera {flag} has two values for {name}: leave one out")
        found[name] = int(value)
    if found.get("k_sim", 0) > MAX_K_SIM:
        raise ConfigError(f"--muvera {flag}: the largest k_sim is {MAX_K_SIM}")
    return Muvera(**found)


def pooling_of(settings: Muvera) -> str:
    """What a manifest says: vectors made with other settings cannot be compared."""
    return f"{MUVERA} {','.join(f'{name}={value}' for name, value in asdict(settings).items())}"


def settings_of(pooling: str) -> Muvera | None:
    """The settings that a manifest's pooling names; None for another pooling."""
    word, _, settings = pooling.partition(" ")
    return parse_muvera_flag(settings) if word == MUVERA else None
