"""OpenAI's token ids back to text, from the rank files that tiktoken keeps on this machine. Never uses the network.

Decoding needs only the file, not the package tiktoken, which would download what it does not find.
"""

from __future__ import annotations

import binascii
import codecs
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gguf_embed.errors import ConfigError, InvalidRequest

EncodingName = Literal["cl100k_base", "o200k_base"]
TokenIdMeaning = Literal["auto", "model", "cl100k_base", "o200k_base", "reject"]


@dataclass(frozen=True, slots=True)
class RankFile:
    """One encoding as tiktoken knows it (tiktoken_ext/openai_public.py)."""

    file: str  # in tiktoken's cache: the sha1 of the address it came from
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


_STEP = 100_000  # ids counted in a millisecond or two, between which other threads run


class OpenAIEncoding:
    """The way from ids to text. Safe from any thread; some 15 MB for cl100k_base, twice that for o200k_base."""

    def __init__(self, name: EncodingName, pieces: Mapping[int, bytes]) -> None:
        """`pieces`: the bytes of each id."""
        self.name = name
        self._pieces = pieces

    def n_bytes(self, tokens: Sequence[int], index: int, limit: int) -> int:
        """How long one input's text will be, counted until it is over `limit`: an id may stand for 128 bytes.

        `index` names the input in errors. Raises `InvalidRequest` for an id that the encoding lacks.
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
        """The text of one input's ids; `index` names the input in errors.

        LangChain cuts long texts between tokens, which may be inside a character: what is left of one at either end
        is dropped, unless nothing else is there. Raises `InvalidRequest` then, for an id that the encoding lacks, and
        for bytes that are no text otherwise, because then the ids were made by another tokenizer.
        """
        try:
            raw = b"".join(map(self._pieces.__getitem__, tokens))
        except KeyError as exc:
            raise self._unknown(index, exc) from exc
        begin = next((at for at, byte in enumerate(raw[:4]) if not _continues(byte)), 0)
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(raw[begin:])
        except UnicodeDecodeError as exc:
            raise self._no_text(index) from exc
        if tokens and not text:
            raise self._no_text(index)
        return text

    def _unknown(self, index: int, missing: KeyError) -> InvalidRequest:
        return InvalidRequest(
            f"input {index}: token id {missing.args[0]} is not in {self.name}, which this server reads ids as: {_WAYS}",
            "input",
        )

    def _no_text(self, index: int) -> InvalidRequest:
        return InvalidRequest(
            f"input {index}: its token ids make no text in {self.name}, which this server reads ids as: {_WAYS}",
            "input",
        )


@dataclass(frozen=True, slots=True)
class TokenIdRule:
    """What token ids on OpenAI's endpoint are taken for. auto: the model's own where that shows, else refused."""

    meaning: TokenIdMeaning = "auto"
    encoding: OpenAIEncoding | None = None  # of cl100k_base and o200k_base, where its file is here
    problem: str = ""  # why it is not


_WAYS = "send the text itself, or the model's own ids to POST /embedding"


def _continues(byte: int) -> bool:
    """Whether a byte of UTF-8 is inside a character."""
    return byte & 0xC0 == 0x80


def cache_folders(environment: Mapping[str, str], temporary: Path) -> tuple[Path, ...]:
    """Where tiktoken keeps its files (tiktoken/load.py); `temporary`: the system's folder for temporary files."""
    for name in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if name in environment:
            return (Path(environment[name]),) if environment[name] else ()
    return (temporary / "data-gym-cache",)


def load_encoding(name: EncodingName, folders: Sequence[Path]) -> OpenAIEncoding:
    """Read and check the file of an encoding: about 0.1 s. Raises `ConfigError` when no folder has it whole."""
    known = RANK_FILES[name]
    for folder in folders:
        try:
            content = (folder / known.file).read_bytes()
        except OSError:
            continue
        if hashlib.sha256(content).hexdigest() != known.sha256:
            raise ConfigError(f"{folder / known.file} is not the file of {name}: its sha256 differs; delete it")
        return OpenAIEncoding(name, dict(_parse_ranks(content)) | dict(known.specials))
    looked = ", ".join(map(str, folders)) or "nowhere: TIKTOKEN_CACHE_DIR is empty"
    raise ConfigError(f"the file of {name} ({known.file}) is not on this machine (looked in {looked})")


def token_id_rule(meaning: TokenIdMeaning, folders: Sequence[Path]) -> TokenIdRule:
    """The rule with its encoding loaded. One that cannot be is not fatal: requests with ids are refused, with why."""
    if meaning not in ("cl100k_base", "o200k_base"):
        return TokenIdRule(meaning)
    try:
        return TokenIdRule(meaning, load_encoding(meaning, folders))
    except ConfigError as exc:
        return TokenIdRule(meaning, problem=exc.message)


def how_to_fetch(name: TokenIdMeaning) -> str:
    """A line for the terminal that puts the file of an encoding where it is looked for."""
    return f"pip install tiktoken; python -c \"import tiktoken; tiktoken.get_encoding('{name}')\""


def _parse_ranks(content: bytes) -> Iterator[tuple[int, bytes]]:
    """A line is the token's bytes in base64, a space, its id."""
    for line in content.splitlines():
        piece, _, rank = line.partition(b" ")
        yield int(rank), binascii.a2b_base64(piece)
