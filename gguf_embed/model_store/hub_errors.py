"""Turns the errors of the Hugging Face hub's client into ours, with the way out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from gguf_embed.errors import EmbedError, ModelFileError, is_full, refuses_writing
from gguf_embed.model_store.partial_file import Stopped


class HubUnreachable(ModelFileError):
    """No answer from the hub. Cached files can still be used."""


class NotOnHub(ModelFileError):
    """The hub has no such repository or file, or shows it to nobody without a token."""


class NotCached(ModelFileError):
    """It is not on this machine, and the network must not be used."""


class HubDenied(ModelFileError):
    """The hub does not give it to this machine's user."""


@contextmanager
def explained(repo: str, name: str | None = None, endpoint: str | None = None) -> Iterator[None]:
    """Turn any exception of the hub's client into a `ModelFileError`; an exception of a listener is passed on.

    `endpoint`: the hub's address; None: that of the environment. The client's network errors are those of an HTTP
    library that differs between its versions, so all exceptions are caught.
    """
    try:
        yield
    except EmbedError:
        raise
    except Stopped as exc:
        raise cast(BaseException, exc.__cause__) from None
    except Exception as exc:
        raise _explain(exc, repo, name, f"the hub {endpoint or _usual_endpoint()} cannot be reached") from exc


_WITHOUT_HUB = "; check the network and HTTPS_PROXY, or download the file elsewhere and name its path"


def _usual_endpoint() -> str:
    """The hub's address, which HF_ENDPOINT may have changed."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def _explain(exc: BaseException, repo: str, name: str | None, no_answer: str) -> ModelFileError:
    from huggingface_hub import errors

    where = f"{repo}/{name}" if name else repo
    if isinstance(exc, errors.LocalEntryNotFoundError):
        if isinstance(exc.__cause__, errors.HfHubHTTPError):
            return _explain(exc.__cause__, repo, name, no_answer)
        return HubUnreachable(f"{where} is not cached, and {no_answer}{_WITHOUT_HUB}")
    if isinstance(exc, errors.GatedRepoError):
        return HubDenied(f"{repo} is gated: accept its terms on its page on the hub and set HF_TOKEN")
    if isinstance(exc, errors.RepositoryNotFoundError):
        return NotOnHub(f"{repo} is not on the hub, or is private: check the name, or set HF_TOKEN")
    if isinstance(exc, errors.EntryNotFoundError):
        return NotOnHub(f"{repo} has no file {name}; check the file's name")
    if isinstance(exc, errors.HFValidationError):
        return ModelFileError(f"{repo!r} is not a repository name; give ORG/REPO or ORG/REPO:QUANT")
    if isinstance(exc, errors.HfHubHTTPError):
        return _explain_status(exc.response.status_code, where)
    if isinstance(exc, OSError) and is_full(exc):
        return ModelFileError(f"{where} cannot be downloaded: the disk is full; free some space or set HF_HUB_CACHE")
    if isinstance(exc, PermissionError) or (isinstance(exc, OSError) and refuses_writing(exc)):
        return ModelFileError(f"{where} cannot be stored: {exc}; set HF_HUB_CACHE to a folder that you can write to")
    why = " ".join(str(exc).split())  # some of the client's messages have several lines
    return HubUnreachable(f"{no_answer} for {where} ({type(exc).__name__}: {why}){_WITHOUT_HUB}")


def _explain_status(status: int, where: str) -> ModelFileError:
    if status in (401, 403):
        return HubDenied(f"the hub denied access to {where} ({status}): set HF_TOKEN to a token that can read it")
    if status == 404:
        return NotOnHub(f"{where} is not on the hub; check the name")
    if status == 429:
        return HubUnreachable(f"the hub's rate limit was reached for {where} (429): wait, or set HF_TOKEN")
    return HubUnreachable(f"the hub answered {status} for {where}; try again later")
