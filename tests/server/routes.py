"""The routes of all dialects, for tests that go through them."""

from gguf_embed.server.app import DIALECTS

ROUTES = tuple(route for dialect in DIALECTS for route in dialect.routes)
