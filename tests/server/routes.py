"""The routes of all dialects, for tests that go through them."""

import re

from gguf_embed.server.app import DIALECTS

ROUTES = tuple(route for dialect in DIALECTS for route in dialect.routes)


def with_model(path: str) -> str:
    """A route's path with the name of the served model in it."""
    return re.sub(r"{model(:[^}]*)?}", "tiny", path)
