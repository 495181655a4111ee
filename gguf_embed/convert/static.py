"""Converts static models to GGUF: Model2Vec, sentence-transformers' StaticEmbedding, word-vector tables.

docs/static-models.md describes the result.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import gguf
import numpy as np
from numpy.typing import NDArray

from gguf_embed.convert.plan import FILE_TYPES, OutType, matrix_type
from gguf_embed.convert.profile import UseProfile, read_profile, write_profile
from gguf_embed.convert.source import read_license
from gguf_embed.convert.static_source import StaticDirectory, find_static, read_static, read_values
from gguf_embed.convert.word_tables import WordTable, is_word_table, read_word_table
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file import static_format as keys
from gguf_embed.gguf_file.atomic_write import atomic_write

_BLOCK_VALUES = 2**22
_FILE_TYPE_OF = {gguf.GGMLQuantizationType.F16: gguf.LlamaFileType.MOSTLY_F16}


@dataclass(frozen=True, slots=True)
class _StaticModel:
    """One model to write, independent of its source."""

    kind: str
    rows: NDArray[np.generic]  # [n_rows, n_embd], on disk
    rows_are_bf16: bool  # uint16, the upper halves of float32
    tokens: Sequence[str]
    types: Sequence[int]
    normalize: bool
    write_tokenizer: Callable[[gguf.GGUFWriter], None]
    license: str | None = None
    profile: UseProfile = field(default_factory=UseProfile)
    weights: NDArray[np.float32] | None = None
    mapping: NDArray[np.int32] | None = None


def is_static(source: Path) -> bool:
    """Whether `convert_static` can read it: a static model's directory, or a file that begins like a word table."""
    try:
        return find_static(source) is not None if source.is_dir() else source.is_file() and is_word_table(source)
    except ModelFileError:
        return False  # another kind of model, damaged: its own converter reports what is wrong


def convert_static(
    source: Path, output: Path, outtype: OutType | str, *, report: Callable[[str], None], name: str | None = None
) -> None:
    """Write the GGUF `output`, replacing it atomically; rows as `outtype`, everything else as F32.

    "auto" keeps BF16 and converts everything else to F16, which can represent Model2Vec's int8 exactly.
    `name` becomes `general.name`, by default the source's own name. Raises `ModelFileError`; on any failure `output` is
    unchanged.
    """
    with atomic_write(output) as temporary:
        if source.is_dir():
            model = _of_directory(read_static(source))
        else:
            model = _of_words(read_word_table(source, output.parent, report))
        chosen = _choose_type(outtype, model)
        stored_as = matrix_type(chosen, model.rows.shape)
        n_rows, n_embd = model.rows.shape
        report(
            f"converting {source} to {output} ({stored_as.name}, {len(model.tokens):,} tokens, {n_rows:,} x {n_embd})"
        )
        writer = gguf.GGUFWriter(temporary, keys.ARCHITECTURE)
        try:
            writer.add_file_type(int(_FILE_TYPE_OF.get(stored_as, FILE_TYPES[chosen])))
            _write_metadata(writer, model, name or source.resolve().name.removesuffix(".gz"))
            _write_tensors(writer, model, _EncodedRows(source, model, stored_as))
        finally:
            writer.close()


def _choose_type(outtype: str, model: _StaticModel) -> OutType:
    if outtype == "auto":
        return "bf16" if model.rows_are_bf16 else "f16"
    for known in FILE_TYPES:
        if known == outtype:
            return known
    raise ModelFileError(f"static models cannot be stored as {outtype!r}: use one of {', '.join(FILE_TYPES)} or auto")


def _of_directory(directory: StaticDirectory) -> _StaticModel:
    def write_tokenizer(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(keys.HUGGINGFACE_TOKENIZER)
        writer.add_string(keys.TOKENIZER_JSON, directory.tokenizer_json)
        if directory.unknown_id is not None:
            writer.add_unk_token_id(directory.unknown_id)
        writer.add_bool(keys.SKIP_UNKNOWN, directory.kind == "model2vec")

    return _StaticModel(
        kind=directory.kind,
        rows=read_values(directory.table),
        rows_are_bf16=directory.table.dtype == "BF16",
        tokens=directory.tokens,
        types=directory.types,
        normalize=directory.normalize,
        write_tokenizer=write_tokenizer,
        license=read_license(directory.source),
        profile=read_profile(directory.source),
        weights=directory.weights,
        mapping=directory.mapping,
    )


def _of_words(table: WordTable) -> _StaticModel:
    def write_tokenizer(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_model(keys.WORD_TOKENIZER)
        writer.add_bool(keys.LOWERCASE, table.lowercase)

    return _StaticModel(
        kind="word-table",
        rows=table.rows,
        rows_are_bf16=False,
        tokens=table.words,
        types=[int(gguf.TokenType.NORMAL)] * len(table.words),
        normalize=False,
        write_tokenizer=write_tokenizer,
    )


def _write_metadata(writer: gguf.GGUFWriter, model: _StaticModel, name: str) -> None:
    writer.add_type("model")
    writer.add_name(name)
    if model.license is not None:
        writer.add_license(model.license)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(keys.CONTEXT_LENGTH)
    writer.add_embedding_length(model.rows.shape[1])
    writer.add_vocab_size(len(model.tokens))
    writer.add_pooling_type(gguf.PoolingType.MEAN)
    writer.add_string(keys.KIND, model.kind)
    writer.add_bool(keys.NORMALIZE, model.normalize)
    model.write_tokenizer(writer)
    writer.add_token_list(list(model.tokens))
    writer.add_token_types(list(model.types))
    write_profile(writer, model.profile, None)


class _EncodedRows:
    """The table in its final type, encoded block by block while it is written. Used in place of an array."""

    def __init__(self, source: Path, model: _StaticModel, stored_as: gguf.GGMLQuantizationType) -> None:
        self.type = stored_as
        self._source = source
        self._model = model
        n_block, block_bytes = gguf.GGML_QUANT_SIZES[stored_as]
        self.nbytes = model.rows.size // n_block * block_bytes

    def tofile(self, file: IO[bytes]) -> None:
        for block in self._blocks():
            with np.errstate(over="ignore"):  # checked below
                values = block.astype(np.float32)
                encoded = gguf.quants.quantize(values, self.type)
            if not np.isfinite(values).all():
                raise ModelFileError(f"{self._source}: contains values that are not finite")
            if self.type == gguf.GGMLQuantizationType.F16 and not np.isfinite(encoded).all():
                raise ModelFileError(f"{self._source}: has values too large for f16; convert to bf16 or f32")
            encoded.tofile(file)

    def _blocks(self) -> Iterator[NDArray[np.generic]]:
        rows = self._model.rows
        step = max(1, _BLOCK_VALUES // rows.shape[1])
        for begin in range(0, len(rows), step):
            block = rows[begin : begin + step]
            yield (block.astype(np.uint32) << 16).view(np.float32) if self._model.rows_are_bf16 else block


def _write_tensors(writer: gguf.GGUFWriter, model: _StaticModel, rows: _EncodedRows) -> None:
    shape = model.rows.shape
    writer.add_tensor_info(keys.TABLE, shape, np.dtype(np.float32), rows.nbytes, raw_dtype=rows.type)
    further = [values for values in (model.weights, model.mapping) if values is not None]
    if model.weights is not None:
        writer.add_tensor_info(keys.WEIGHTS, model.weights.shape, model.weights.dtype, model.weights.nbytes)
    if model.mapping is not None:
        writer.add_tensor_info(keys.MAPPING, model.mapping.shape, model.mapping.dtype, model.mapping.nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for values in (rows, *further):
        writer.write_tensor_data(values)
