"""The declaration of how urgent a request is, which `http/terms.py` parses for every route."""

from __future__ import annotations

from gguf_embed.server.fields.field import Body, Shaped
from gguf_embed.server.http.terms import PRIORITY_FIELD

_WORDS = "[Hh][Ii][Gg][Hh]|[Nn][Oo][Rr][Mm][Aa][Ll]|[Ll][Oo][Ww]|[Bb][Aa][Tt][Cc][Hh]"
PRIORITY = Shaped(
    PRIORITY_FIELD,
    "`high`, `normal`, `low` or `batch`; or a number, of which a negative one is high, 0 normal, and others low. A "
    "key's class is the highest.",
    default="`normal`",
    see="Under load",
    shape={"anyOf": [{"type": "integer"}, {"type": "string", "pattern": rf"^\s*({_WORDS}|-?[0-9]+)\s*$"}]},
)
URGENCY_FIELDS = Body(
    "UrgencyFields",
    (PRIORITY,),
    "How urgent the request is. The headers `X-Priority` and `X-Request-Timeout` go with every request.",
    see="Under load",
)
