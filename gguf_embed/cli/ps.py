"""`gguf-embed ps`: lists the models that a running server has loaded."""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import click

from gguf_embed.cli.command import Command
from gguf_embed.cli.table import Column, print_table, table_lines
from gguf_embed.cli.terminal import duration_text, width_of
from gguf_embed.errors import AuthenticationFailed, ConfigError, Unavailable
from gguf_embed.model_store.partial_file import human_size

_COLUMNS = (
    Column("NAME", shrinks_to=30, folds=True),
    Column("ARCHITECTURE", leaves=2),
    Column("TYPE", leaves=1),
    Column("MEMORY", right=True),
    Column("PROCESSOR"),
    Column("CONTEXT", right=True),
    Column("UNTIL"),
)
EXAMPLES = """\b
gguf-embed ps
gguf-embed ps --url http://192.168.1.7:8080
"""
_API_PATH = re.compile(r"(/v1|/api)(/[a-z]+)?$")
_TIMEOUT_S = 10.0
_MAX_REPLY_BYTES = 2**24
_FOREVER_S = 50 * 365 * 86_400.0


@click.command(cls=Command, context_settings={"auto_envvar_prefix": None}, epilog=EXAMPLES)
@click.option("--url", default="http://127.0.0.1:8080", show_default=True, metavar="URL", help="Address of the server.")
@click.option("--api-key", metavar="KEY", envvar="LLAMA_API_KEY", show_envvar=True, help="API key to send.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's JSON, for programs.")
def ps(url: str, api_key: str | None, as_json: bool) -> None:
    """List the models loaded by a running server.

    The last column shows when they will be unloaded.
    """
    models = loaded_models(checked_url(url), api_key)
    if as_json:
        click.echo(json.dumps(models, indent=1))
    elif models:
        print_table(model_lines(models, time.time(), width_of(sys.stdout)))
    else:
        click.echo("no model is loaded: models load on first use")


def checked_url(url: str) -> str:
    """The URL with a scheme, and without what clients need after it, such as /v1. Raises `ConfigError`."""
    full = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(full)
        port = parts.port
    except ValueError as exc:
        raise ConfigError(f"--url {url!r} is not an address ({exc}); give one such as http://127.0.0.1:8080") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise ConfigError(f"--url {url!r} is not a server's address; give one such as http://127.0.0.1:8080")
    return _API_PATH.sub("", full.rstrip("/"))


def loaded_models(url: str, api_key: str | None) -> Sequence[Mapping[str, Any]]:
    """The server's /api/ps. Raises `Unavailable` or `AuthenticationFailed`; messages never contain the key."""
    first_key = (api_key or "").split(",")[0].strip()
    headers = {"Authorization": f"Bearer {first_key}"} if first_key else {}
    request = urllib.request.Request(f"{url}/api/ps", headers=headers)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({})
    )  # a proxy cannot reach this machine's loopback
    try:
        with opener.open(request, timeout=_TIMEOUT_S) as reply:
            models = json.loads(reply.read(_MAX_REPLY_BYTES))["models"]
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise TypeError("no list of models")
    except urllib.error.HTTPError as exc:
        exc.close()
        if exc.code in (401, 403):
            raise AuthenticationFailed(
                f"{url} requires an API key ({exc.code}): set --api-key or LLAMA_API_KEY"
            ) from exc
        raise Unavailable(
            f"{url} answered {exc.code} to /api/ps, so it is not the address of a gguf-embed server; "
            "set it with --url, such as http://127.0.0.1:8080"
        ) from exc
    except (ValueError, KeyError, TypeError) as exc:
        raise Unavailable(f"{url} answered, but it is not a gguf-embed server; set the address with --url") from exc
    except OSError as exc:
        reason = getattr(exc, "reason", exc)
        raise Unavailable(
            f"no server at {url} ({getattr(reason, 'strerror', None) or reason}): start one with "
            "`gguf-embed serve`, or set its address with --url"
        ) from exc
    return models


def model_lines(models: Sequence[Mapping[str, Any]], now_unix_s: float, width: int | None = None) -> list[str]:
    """`width`: columns of the terminal; None: everything."""
    return table_lines(_COLUMNS, [_row(model, now_unix_s) for model in models], width)


def _row(model: Mapping[str, Any], now_unix_s: float) -> tuple[str, ...]:
    details = model.get("details")
    known = details if isinstance(details, dict) else {}
    size, on_gpu = _number(model.get("size")), _number(model.get("size_vram"))
    return (
        str(model.get("name") or "-"),
        str(known.get("family") or "-"),
        str(known.get("quantization_level") or "-"),
        human_size(size) if size else "-",
        processor_text(size, on_gpu),
        str(model.get("context_length") or "-"),
        expiry_text(str(model.get("expires_at") or ""), now_unix_s),
    )


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0


def processor_text(size: float, on_gpu: float) -> str:
    """Where the model's memory is: "CPU", "GPU", or the share on the GPU."""
    if on_gpu <= 0:
        return "CPU"
    return "GPU" if on_gpu >= size else f"{on_gpu / size:.0%} GPU"


def expiry_text(expires_at: str, now_unix_s: float) -> str:
    """When the model will be unloaded if it is not used."""
    try:
        left_s = datetime.fromisoformat(expires_at).timestamp() - now_unix_s
    except (ValueError, OverflowError):
        return "-"
    if left_s > _FOREVER_S:
        return "forever"
    return f"{duration_text(left_s)} from now" if left_s > 0 else "now"
