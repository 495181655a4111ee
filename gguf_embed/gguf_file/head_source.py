"""Reads the heads of a model from its file: arrays of numbers in the metadata and CrispEmbed's tensors, all checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.dequantize import dequantized
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.layout import read_number_arrays
from gguf_embed.gguf_file.strings import read_strings
from gguf_embed.types import FloatMatrix

MAX_DIMENSIONS = 2**16
MAX_LENGTH = 2**20

Numbers = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Projection:
    """A linear layer on token rows."""

    weight: FloatMatrix  # float32[n_out, n_in]
    bias: Numbers | None  # float32[n_out]

    def __call__(self, rows: FloatMatrix) -> FloatMatrix:
        """float32[n, n_in] → float32[n, n_out]."""
        product: FloatMatrix = rows @ self.weight.T
        return product if self.bias is None else product + self.bias


class HeadSource:
    """A file's arrays by key, and CrispEmbed's tensors, in the sizes that are expected."""

    def __init__(self, header: GgufHeader, arrays: Sequence[str]) -> None:
        """`arrays`: the keys of the arrays of numbers that are read."""
        self.header = header
        self.arrays = read_number_arrays(header, arrays)
        self.n_embd = header.get(f"{header.architecture}.embedding_length", int) or 0
        self.n_vocab = header.array_lengths.get("tokenizer.ggml.tokens", 0)

    def numbers(self, key: str, size: int, tensor: str = "") -> Numbers:
        """float32[size], all finite. Raises `ModelFileError` that names the key if they are missing or others."""
        name, found = key, self.arrays.get(key)
        if found is None and tensor in self.header.tensors:
            name, found = tensor, dequantized(self.header, self.header.tensors[tensor]).reshape(-1)
        if found is None:
            raise self.error(f"{key} is missing")
        if found.dtype.kind != "f" or len(found) != size:
            raise self.error(f"{name} has {len(found)} numbers of type {found.dtype}, expected {size} of float32")
        values = np.asarray(found, np.float32)
        if not np.isfinite(values).all():
            raise self.error(f"{name} has numbers that are not finite")
        return values

    def optional(self, key: str, size: int, tensor: str = "") -> Numbers | None:
        return self.numbers(key, size, tensor) if key in self.arrays or tensor in self.header.tensors else None

    def ids(self, key: str) -> tuple[int, ...]:
        """Token ids, all in the vocabulary; () if there are none."""
        found = self.arrays.get(key)
        if found is None:
            return ()
        if found.dtype.kind not in "iu":
            raise self.error(f"{key} has numbers of type {found.dtype}, expected integers")
        ids = tuple(found.tolist())
        for token in ids:
            self.check_id(key, token)
        return ids

    def id_of_text(self, key: str) -> tuple[int, ...]:
        """The id of the token whose text the key has; () if it is missing. Raises `ModelFileError` for another text."""
        text = self.header.get(key, str)
        if not text:
            return ()
        entries = read_strings(self.header.path, "tokenizer.ggml.tokens")
        found = next((entries.index(name) for name in (text, text.strip()) if name in entries), None)
        if found is None:
            raise self.error(f"{key} is {text!r}, which is not a token of its vocabulary")
        return (found,)

    def check_id(self, key: str, token: int) -> None:
        if not 0 <= token < self.n_vocab:
            raise self.error(f"{key} has the token {token}, expected 0 to {self.n_vocab - 1}")

    def size(self, key: str, largest: int) -> int | None:
        """An unsigned number from 1 to `largest`; None if it is missing."""
        value = self.header.get(key, int)
        if value is not None and not 1 <= value <= largest:
            raise self.error(f"{key} is {value}, expected 1 to {largest}")
        return value

    def error(self, problem: str) -> ModelFileError:
        return ModelFileError(f"{self.header.path}: {problem}; convert the model again")
