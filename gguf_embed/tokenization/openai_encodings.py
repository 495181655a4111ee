"""Decodes OpenAI's token ids to text, with the rank files that tiktoken stores on this machine. No network access.

Only the file is needed, not the package tiktoken, which would download a missing file.
"""

from __future__ import annotations

import binascii
import codecs
import functools
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gguf_embed.errors import ConfigError, InvalidRequest, WayOut

EncodingName = Literal["cl100k_base", "o200k_base"]
TokenIdMeaning = Literal["auto", "model", "cl100k_base", "o200k_base", "reject"]

_WAYS = (WayOut.SEND_TEXT, WayOut.OWN_IDS)


@dataclass(frozen=True, slots=True)
class RankFile:
    """One encoding as defined in tiktoken (tiktoken_ext/openai_public.py)."""

    file: str  # name in tiktoken's cache: the sha1 of its URL
    sha256: str
    specials: Mapping[int, bytes]


RANK_FILES: Final[Mapping[EncodingName, RankFile]] = {
    "cl100k_base": RankFile(
        "9b5ad71b2ce5302211f9c61530b329a4922fc6a4",
        "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
        {
            100257: b"<|endoftext|>",
            100258: b"<|fim_prefix|>",
            100259: b"<|fim_middle|>",
            100260: b"<|fim_suffix|>",
            100276: b"<|endofprompt|>",
        },
    ),
    "o200k_base": RankFile(
        "fb374d419588a4632f3f557e76b4b70aebbca790",
        "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
        {199999: b"<|endoftext|>", 200018: b"<|endofprompt|>"},
    ),
}


_STEP = 100_000  # ids counted in one step of 1 to 2 ms; other threads run in between


class OpenAIEncoding:
    """Decodes ids. Safe from any thread; takes about 15 MB for cl100k_base, twice that for o200k_base."""

    def __init__(self, name: EncodingName, pieces: Mapping[int, bytes]) -> None:
        """`pieces`: the bytes of each id."""
        self.name = name
        self._pieces = pieces

    def n_bytes(self, tokens: Sequence[int], index: int, limit: int) -> int:
        """The length of one input's text in UTF-8; stops counting above `limit`, because an id may mean 128 bytes.

        `index` is the input's number for errors. Raises `InvalidRequest` for an id that the encoding lacks.
        """
        total = 0
        for at in range(0, len(tokens), _STEP):
            try:
                total += sum(map(len, map(self._pieces.__getitem__, tokens[at : at + _STEP])))
            except KeyError as exc:
                raise self._unknown(index, exc) from exc
            if total > limit:
                break
        return total

    def decode(self, tokens: Sequence[int], index: int) -> str:
        """The text of one input's ids; `index` is the input's number for errors.

        LangChain splits long texts between tokens, which may be inside a character. A partial character at either end
        is therefore dropped. Raises `InvalidRequest` if nothing is left, for an id that the encoding lacks, and for any
        other invalid UTF-8, because then the ids are from another tokenizer.
        """
        try:
            raw = b"".join(map(self._pieces.__getitem__, tokens))
        except KeyError as exc:
            raise self._unknown(index, exc) from exc
        begin = next((at for at, byte in enumerate(raw[:4]) if not _continues(byte)), 0)
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(raw[begin:])
        except UnicodeDecodeError as exc:
            raise self._not_text(index) from exc
        if tokens and not text:
            raise self._not_text(index)
        return text

    def _unknown(self, index: int, missing: KeyError) -> InvalidRequest:
        return InvalidRequest(
            f"input {index}: token id {missing.args[0]} is not in {self.name}, the encoding expected here",
            "input",
            ways_out=_WAYS,
        )

    def _not_text(self, index: int) -> InvalidRequest:
        return InvalidRequest(
            f"input {index}: its token ids are not valid text in {self.name}, the encoding expected here",
            "input",
            ways_out=_WAYS,
        )


@dataclass(frozen=True, slots=True)
class TokenIdRule:
    """The meaning of token ids on OpenAI's endpoint. auto: by the client, see `server/dialects/openai/token_ids.py`."""

    meaning: TokenIdMeaning = "auto"
    encoding: OpenAIEncoding | None = None  # for cl100k_base and o200k_base, if the file was found
    problem: str = ""  # why it was not
    folders: tuple[Path, ...] = ()  # for auto: where cl100k_base is searched when it is needed


def _continues(byte: int) -> bool:
    """Whether a byte continues a UTF-8 character."""
    return byte & 0xC0 == 0x80


def cache_folders(environment: Mapping[str, str], temporary: Path) -> tuple[Path, ...]:
    """The folders where tiktoken stores its files (tiktoken/load.py). `temporary` is the system's temporary folder."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if name in environment:
            return (Path(environment[name]),) if environment[name] else ()
    return (temporary / "data-gym-cache",)


def load_encoding(name: EncodingName, folders: Sequence[Path]) -> OpenAIEncoding:
    """Read and check an encoding's file, in about 0.1 s. Raises `ConfigError` if no folder has an intact one."""
    known = RANK_FILES[name]
    for folder in folders:
        try:
            content = (folder / known.file).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() != known.sha256:
            raise ConfigError(f"{folder / known.file} is not the file of {name}: its sha256 differs; delete it")
        return OpenAIEncoding(name, dict(_parse_ranks(content)) | dict(known.specials))
    searched = ", ".join(map(str, folders)) or "no folder: TIKTOKEN_CACHE_DIR is empty"
    raise ConfigError(f"the file of {name} ({known.file}) is not on this machine (searched {searched})")


@functools.lru_cache(maxsize=1)
def loaded_cl100k(folders: tuple[Path, ...]) -> OpenAIEncoding:
    """`load_encoding` of cl100k_base, once. An error is not kept, so the file may be added while the server runs."""
    return load_encoding("cl100k_base", folders)


def token_id_rule(meaning: TokenIdMeaning, folders: Sequence[Path]) -> TokenIdRule:
    """The rule with its encoding loaded. If that fails, requests with ids are refused with the reason."""
    if meaning not in ("cl100k_base", "o200k_base"):
        return TokenIdRule(meaning, folders=tuple(folders))
    try:
        return TokenIdRule(meaning, load_encoding(meaning, folders))
    except ConfigError as exc:
        return TokenIdRule(meaning, problem=exc.message)


def how_to_fetch(name: TokenIdMeaning) -> str:
    """A shell command that downloads the file of an encoding to where it is searched."""
    return f"pip install tiktoken; python -c \"import tiktoken; tiktoken.get_encoding('{name}')\""


def _parse_ranks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Each line has a token's bytes in base64, a space and its id."""
    for line in content.splitlines():
        piece, _, rank = line.partition(b" ")
        yield int(rank), binascii.a2b_base64(piece)
