"""Parses the settings of MUVERA."""

from __future__ import annotations

from gguf_embed.errors import InvalidRequest
from gguf_embed.server.fields.field import Body, Json, Shaped, Whole
from gguf_embed.server.http.values import JsonObject, describe
from gguf_embed.types import Muvera
from gguf_embed.vectors.muvera import MAX_DIMS, MAX_K_SIM

_DEFAULT = Muvera()
SETTINGS = Body(
    "Muvera",
    (
        Whole("k_sim", "Random planes: they make 2^k_sim clusters.", minimum=1, maximum=MAX_K_SIM),
        Whole("dim_proj", "Numbers per cluster; those of the model: no projection.", minimum=1, maximum=MAX_DIMS),
        Whole("r_reps", "Repetitions with other planes.", minimum=1, maximum=MAX_DIMS),
        Whole("random_seed", "Of the planes and projections.", minimum=0, maximum=2**32 - 1),
    ),
    "Settings of MUVERA, as fastembed's: `k_sim` 5, `dim_proj` 16, `r_reps` 20 and `random_seed` 42 by default.",
    rules={"additionalProperties": False},
)
SCHEMAS: dict[str, Json] = {SETTINGS.name: SETTINGS.schema()}
MUVERA = Shaped(
    "muvera",
    "Each multi-vector becomes one vector of fixed size, for dot products.",
    default="`false`",
    shape={"anyOf": [{"type": "boolean"}, {"ref": SETTINGS.name}]},
)


def parse_settings(body: JsonObject) -> Muvera | None:
    """None if MUVERA is not asked for. Raises `InvalidRequest`."""
    value = body.get(MUVERA.name)
    if value is None or value is False:
        return None
    if value is True:
        return _DEFAULT
    names = [field.name for field in SETTINGS.fields]
    if not isinstance(value, dict):
        raise InvalidRequest(
            f'"{MUVERA.name}" must be true, false or an object with {", ".join(names)}, found {describe(value)}',
            MUVERA.name,
        )
    unknown = next((name for name in value if name not in names), None)
    if unknown is not None:
        raise InvalidRequest(f'"{MUVERA.name}" has "{unknown}", and only {", ".join(names)} are known', MUVERA.name)
    found = {field.name: field.read(value) for field in SETTINGS.fields if isinstance(field, Whole)}
    return Muvera(**{name: number for name, number in found.items() if number is not None})
