"""The only module that calls llama.cpp's multimodal library (mtmd): its low-level calls, made typed and safe.

Imported when the first vision tower is opened. The library's log goes to our logger `gguf_embed.llama`.
The interface is llama.cpp's tools/mtmd/mtmd.h and mtmd-helper.h, which are marked as experimental.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gguf_embed.engines.llama import api
from gguf_embed.engines.llama.bindings import import_bindings
from gguf_embed.engines.llama.log import LlamaLog
from gguf_embed.errors import ModelFileError
from gguf_embed.types import FloatMatrix

mtmd = import_bindings("mtmd_cpp")  # after `api`, which prepares the process for llama.cpp
_log = LlamaLog()
_log_callback = api.llama.llama_log_callback(_log.receive)
_opening = threading.Lock()

_NO_FOLDER = b"/dev/null"

OnRows = Callable[[int], None]
"""Called with the number of rows after each computed part of an image."""


@dataclass(frozen=True, slots=True)
class TowerParams:
    """Settings for opening a vision tower."""

    use_gpu: bool
    n_threads: int


def open_tower(path: Path, model: api.Handle, params: TowerParams) -> api.Handle:
    """Raises `ModelFileError` with llama.cpp's first reason, for example if its width is not the text model's."""
    with _opening:
        mtmd.mtmd_helper_log_set(_log_callback, ctypes.c_void_p(0))
        native = mtmd.mtmd_context_params_default()
        native.use_gpu = params.use_gpu
        native.n_threads = params.n_threads
        native.print_timings = False
        native.warmup = False
        _log.forget_errors()
        tower = mtmd.mtmd_init_from_file(str(path).encode(), model, native)
        if not tower:
            raise ModelFileError(f"llama.cpp cannot load vision tower {path.name}: {_log.first_error()}")
        return tower


def free_tower(tower: api.Handle) -> None:
    mtmd.mtmd_free(tower)


def supports_vision(tower: api.Handle) -> bool:
    """Whether it has a vision encoder. It may have only an audio encoder."""
    return bool(mtmd.mtmd_support_vision(tower))


def decode_image(tower: api.Handle, data: bytes) -> api.Handle | None:
    """Decode a PNG or JPEG file. The caller frees the bitmap; None if the file is damaged. Check its size first.

    llama.cpp passes files that stb_image cannot read to ffprobe and ffmpeg, as a video. To prevent that, it gets a
    folder that cannot contain them (mtmd_helper_bitmap_init_from_buf in mtmd-helper.cpp).
    """
    buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
    options = mtmd.mtmd_helper_init_opt_default()
    options.video_params.ffmpeg_bin_dir = _NO_FOLDER
    read = mtmd.mtmd_helper_bitmap_init_from_buf_wrapper(tower, buffer, len(data), False, options)
    if read.video_ctx:
        mtmd.mtmd_bitmap_free(read.bitmap)
        mtmd.mtmd_helper_video_free(read.video_ctx)
        return None
    return read.bitmap or None


def free_image(bitmap: api.Handle) -> None:
    mtmd.mtmd_bitmap_free(bitmap)


def tokenize(tower: api.Handle, parts: Sequence[str | api.Handle]) -> api.Handle | None:
    """Texts and bitmaps, in order → chunks, which the caller frees; None if llama.cpp refuses an image.

    Special tokens are added and parsed, as for a text without images.
    """
    keep_alive: list[object] = []
    pointers = (ctypes.POINTER(mtmd.mtmd_input_part) * len(parts))()
    for number, part in enumerate(parts):
        native = mtmd.mtmd_input_part()
        if isinstance(part, str):
            written = part.encode("utf-8", "replace")
            text = mtmd.mtmd_input_text(written, len(written), True, True)
            native.text = ctypes.pointer(text)
            keep_alive += [written, text]
        else:
            native.bitmap = part
        pointers[number] = ctypes.pointer(native)
        keep_alive.append(native)
    with ExitStack() as stack:
        chunks = mtmd.mtmd_input_chunks_init()
        stack.callback(mtmd.mtmd_input_chunks_free, chunks)
        if mtmd.mtmd_tokenize_from_parts(tower, chunks, pointers, len(parts), True) != 0:
            return None
        stack.pop_all()
    return chunks


def free_chunks(chunks: api.Handle) -> None:
    mtmd.mtmd_input_chunks_free(chunks)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A part of a tokenized input: token ids, or an image. Valid until the chunks are freed."""

    handle: api.Handle
    n_tokens: int  # cells of the KV memory
    n_positions: int  # fewer than `n_tokens` for models whose images have two-dimensional positions
    tokens: tuple[int, ...] | None  # None: an image
    looks_ahead: bool = False  # its attention is not causal, so it must be computed whole


def list_chunks(tower: api.Handle, chunks: api.Handle) -> list[Chunk]:
    found = []
    for number in range(mtmd.mtmd_input_chunks_size(chunks)):
        handle = mtmd.mtmd_input_chunks_get(chunks, number)
        n_tokens = int(mtmd.mtmd_input_chunk_get_n_tokens(handle))
        n_positions = int(mtmd.mtmd_input_chunk_get_n_pos(handle))
        if mtmd.mtmd_input_chunk_get_type(handle) == mtmd.MTMD_INPUT_CHUNK_TYPE_TEXT:
            ids = mtmd.mtmd_input_chunk_get_tokens_text(handle, ctypes.byref(ctypes.c_size_t()))
            found.append(Chunk(handle, n_tokens, n_positions, tuple(ids[:n_tokens])))
        else:
            looks_ahead = bool(mtmd.mtmd_decode_use_non_causal(tower, handle))
            found.append(Chunk(handle, n_tokens, n_positions, None, looks_ahead))
    return found


def encode_image(tower: api.Handle, chunk: Chunk, width: int) -> FloatMatrix | None:
    """Run the tower on an image. Returns float32[n_tokens, width] for the text model; None if it failed."""
    if mtmd.mtmd_encode_chunk(tower, chunk.handle) != 0:
        return None
    rows = mtmd.mtmd_get_output_embd(tower)
    if not rows:
        return None
    return np.ctypeslib.as_array(rows, (chunk.n_tokens, width)).copy()


def decode_rows(
    tower: api.Handle, context: api.Handle, chunk: Chunk, rows: FloatMatrix, place: tuple[int, int], on_rows: OnRows
) -> int:
    """Run an image's rows in the text model. `place` is the first position, and the tokens per part. 0 is success."""
    start, n_batch = place
    end = ctypes.c_int32(0)

    def after(batch: object, _user_data: object) -> int:
        on_rows(int(batch.contents.n_tokens))  # type: ignore[attr-defined]
        return 0

    callback = mtmd.mtmd_helper_post_decode_callback(after)
    pointer = rows.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return int(
        mtmd.mtmd_helper_decode_image_chunk(
            tower, context, chunk.handle, pointer, start, 0, n_batch, ctypes.byref(end), callback, None
        )
    )
