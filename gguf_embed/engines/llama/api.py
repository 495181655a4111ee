"""The only module that calls llama.cpp: llama-cpp-python's low-level calls, made typed and safe.

Functions return plain Python values or opaque handles (an `int` address or a ctypes pointer). llama.cpp's log goes to
our logger `gguf_embed.llama`, so nothing reaches the terminal unless that logger is configured to print it.
"""

from __future__ import annotations

import ctypes
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_embed.config import OffloadConfig
from gguf_embed.engines.llama import amx
from gguf_embed.engines.llama.bindings import import_bindings, is_package_imported
from gguf_embed.engines.llama.ggml import find_devices, library
from gguf_embed.engines.llama.log import LlamaLog
from gguf_embed.engines.llama.memory_pages import release_pages
from gguf_embed.errors import ModelFileError
from gguf_embed.gguf_file.constants import POOLING_NUMBERS
from gguf_embed.types import Pooling

# These must be set before llama_cpp is imported. By default libgomp spins for milliseconds at every barrier: a 5 ms
# computation then takes 300 ms while other work is running, and 11 ms with 1000 spins. If the process has more libgomp
# threads than processors, it hardly spins by default (10 ms); "active" keeps the 1000 spins in that case (3.7 ms).
os.environ.setdefault("GOMP_SPINCOUNT", "1000")
os.environ.setdefault("OMP_WAIT_POLICY", "active")
# A failed assert in ggml starts gdb, if installed, and waits minutes for it. A crashed server can restart sooner.
os.environ.setdefault("GGML_NO_BACKTRACE", "1")
_amx_gemm = None if is_package_imported() else amx.preload()
llama = import_bindings("llama_cpp")

Handle = Any
"""An opaque llama.cpp pointer."""

MAX_SEQUENCES = 256
"""llama.cpp's LLAMA_MAX_SEQ (src/llama-cparams.h): it refuses more sequences in one context."""

SPLIT_MODES = {"none": 0, "layer": 1, "row": 2, "tensor": 3}

_log = LlamaLog()
_log_callback = llama.llama_log_callback(_log.receive)
_started = False
_start = threading.Lock()


def start_backend() -> None:
    """Initialize llama.cpp once per process and redirect its log. Any thread, any number of times."""
    global _started
    with _start:
        if not _started:
            llama.llama_log_set(_log_callback, ctypes.c_void_p(0))
            llama.llama_backend_init()
            _switch_amx_gemm(False)  # the library already receives ggml's calls: pass them on until a model enables it
            _started = True


@dataclass(frozen=True, slots=True)
class ContextParams:
    """The size and settings of one context."""

    n_tokens: int  # of the largest batch
    n_ubatch: int  # of the largest part of it that llama.cpp computes at once
    n_sequences: int
    pooling: Pooling
    flash_attention: bool
    full_memory: bool = False  # KV memory in F32 instead of F16


def supports_gpu() -> bool:
    """Whether this build of llama.cpp has a GPU backend with a device."""
    start_backend()
    return bool(llama.llama_supports_gpu_offload())


def cpu_features() -> frozenset[str]:
    """The CPU features that the compiled library uses, with llama.cpp's names, e.g. {"AVX2", "AVX512_BF16"}."""
    start_backend()
    words = llama.llama_print_system_info().decode().replace(":", "|").split("|")
    return frozenset(word.split("=")[0].strip() for word in words if word.strip().endswith("= 1"))


def has_amx_gemm() -> bool:
    """Whether BF16 weights can be multiplied on AMX tiles in this process."""
    return _amx_gemm is not None


def use_amx_gemm(on: bool) -> None:
    """Switch AMX multiplication for the whole process, while nothing computes. No effect if it is not available."""
    start_backend()
    _switch_amx_gemm(on)


def _switch_amx_gemm(on: bool) -> None:
    if _amx_gemm is not None:
        _amx_gemm.enable(library("libggml-cpu"), on)


def n_amx_multiplications() -> int:
    """How many multiplications were computed on tiles."""
    return _amx_gemm.n_computed if _amx_gemm is not None else 0


def load_model(path: Path, params: OffloadConfig, *, vocabulary_only: bool = False, in_memory: bool = False) -> Handle:
    """Raises `ModelFileError` with llama.cpp's first reason. With n_gpu_layers 0, no GPU memory is used.

    `in_memory`: the file is read, not mapped, so that it may be overwritten while the model runs.

    With `vocabulary_only`, the model has a vocabulary and metadata, but no weights: it cannot open contexts, and of its
    `ModelFacts` only `n_vocab` and `has_encoder_and_decoder` are right.
    """
    start_backend()
    native = llama.llama_model_default_params()
    native.vocab_only = vocabulary_only
    if in_memory:
        native.load_mode = llama.LLAMA_LOAD_MODE_NONE
    native.n_gpu_layers = params.n_gpu_layers
    native.main_gpu = params.main_gpu
    # ggml's own AMX buffers crash for quantized weights when compiled by GCC 12 (it loses the tile configuration)
    native.use_extra_bufts = "AMX_INT8" not in cpu_features()
    native.split_mode = SPLIT_MODES[params.split_mode]
    keep_alive: list[object] = []
    if params.tensor_split:
        room = max(int(llama.llama_max_devices()), len(params.tensor_split))
        split = (ctypes.c_float * room)(*params.tensor_split)
        native.tensor_split = split
        keep_alive.append(split)
    if params.devices:
        devices = find_devices(params.devices)
        native.devices = ctypes.cast(devices, ctypes.c_void_p)
        keep_alive.append(devices)
    _log.forget_errors()
    model = llama.llama_model_load_from_file(str(path).encode(), native)
    if not model:
        raise ModelFileError(f"llama.cpp cannot load {path.name}: {_log.first_error()}")
    return model


def new_context(model: Handle, params: ContextParams) -> Handle:
    """Raises `ModelFileError` if llama.cpp refuses it.

    Sizes are rounded up to a multiple of the number of sequences. llama.cpp reserves its graph for such a multiple, and
    if mean pooling then finds more tokens than the micro-batch has, a failed assert ends the process.
    """
    native = llama.llama_context_default_params()
    native.n_ctx = native.n_batch = _round_up(params.n_tokens, params.n_sequences)
    native.n_ubatch = _round_up(params.n_ubatch, params.n_sequences)
    native.n_seq_max = params.n_sequences
    native.pooling_type = POOLING_NUMBERS[params.pooling]
    native.flash_attn_type = int(params.flash_attention)
    if params.full_memory:
        native.type_k = native.type_v = llama.GGML_TYPE_F32
    native.embeddings = True
    native.kv_unified = True
    native.no_perf = True
    _log.forget_errors()
    context = llama.llama_init_from_model(model, native)
    if not context:
        what = f"a context of {params.n_tokens} tokens, pooling {params.pooling}"
        raise ModelFileError(f"llama.cpp cannot open {what}: {_log.first_error()}")
    return context


def _round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def encode(context: Handle, batch: Handle) -> int:
    """Compute a batch of a model without KV memory; releases the GIL. Returns 0, or llama.cpp's error code."""
    return int(llama.llama_encode(context, batch))


def decode(context: Handle, batch: Handle) -> int:
    """Compute a batch that continues the KV memory's content; releases the GIL. Returns 0, or an error code."""
    return int(llama.llama_decode(context, batch))


def clear_memory(context: Handle) -> None:
    """Empty the KV memory."""
    llama.llama_memory_clear(llama.llama_get_memory(context), False)


def set_embeddings(context: Handle, on: bool) -> None:
    """Whether the next batches return rows. If not, tokens only go to the KV memory, without the cost of logits."""
    llama.llama_set_embeddings(context, on)


def copy_sequence_rows(context: Handle, out: np.ndarray) -> bool:
    """Copy the pooled row of sequence i into out[i], float32[n, width]. False if llama.cpp has none for a sequence."""
    address, row_bytes = out.ctypes.data, out.strides[0]
    for number in range(len(out)):
        row = llama.llama_get_embeddings_seq(context, number)
        if not row:
            return False
        ctypes.memmove(address + number * row_bytes, row, row_bytes)
    return True


def copy_token_rows(context: Handle, out: np.ndarray) -> bool:
    """Copy all token rows, in batch order, into float32[n_tokens, n_embd]. False if llama.cpp has none."""
    rows = llama.llama_get_embeddings(context)
    if not rows:
        return False
    ctypes.memmove(out.ctypes.data, rows, out.nbytes)
    return True


def release_logits(context: Handle, n_vocab: int, n_tokens: int) -> None:
    """Release the memory of an encoder's logits, `n_tokens * n_vocab` floats in every context.

    llama.cpp zeroes them, but an encoder neither writes nor reads them. Not for models with a KV cache, which do.
    """
    logits = llama.llama_get_logits(context)
    if logits:
        release_pages(ctypes.addressof(logits.contents), 4 * n_vocab * n_tokens)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Numbers of a loaded model."""

    n_embd: int
    n_embd_in: int  # of rows that replace token ids; for some models more than n_embd (deepstack)
    n_vocab: int
    n_ctx_train: int
    n_params: int
    size_bytes: int
    n_cls_out: int
    has_encoder_and_decoder: bool


def model_facts(model: Handle) -> ModelFacts:
    return ModelFacts(
        n_embd=int(llama.llama_model_n_embd_out(model)),
        n_embd_in=int(llama.llama_model_n_embd_inp(model)),
        n_vocab=int(llama.llama_vocab_n_tokens(vocabulary_of(model))),
        n_ctx_train=int(llama.llama_model_n_ctx_train(model)),
        n_params=int(llama.llama_model_n_params(model)),
        size_bytes=int(llama.llama_model_size(model)),
        n_cls_out=int(llama.llama_model_n_cls_out(model)),
        has_encoder_and_decoder=bool(llama.llama_model_has_encoder(model) and llama.llama_model_has_decoder(model)),
    )


def vocabulary_of(model: Handle) -> Handle:
    return llama.llama_model_get_vocab(model)


def vocabulary_code(vocab: Handle) -> int:
    """llama.cpp's llama_vocab_type."""
    return int(llama.llama_vocab_type(vocab))


def has_memory(context: Handle) -> bool:
    """True for a model with a KV cache or recurrent state."""
    return bool(llama.llama_get_memory(context))


def set_threads(context: Handle, n_threads: int) -> None:
    llama.llama_set_n_threads(context, n_threads, n_threads)


def free_context(context: Handle) -> None:
    llama.llama_free(context)


def free_model(model: Handle) -> None:
    llama.llama_model_free(model)


def read_metadata(model: Handle, key: str) -> str | None:
    """One scalar value of the file's metadata, as text."""
    value = ctypes.create_string_buffer(512)
    n = llama.llama_model_meta_val_str(model, key.encode(), value, len(value))
    return value.value.decode("utf-8", "replace") if n >= 0 else None


def describe(model: Handle) -> str:
    """llama.cpp's short description, e.g. "bert 22M F16"."""
    text = ctypes.create_string_buffer(256)
    llama.llama_model_desc(model, text, len(text))
    return text.value.decode("utf-8", "replace")


def retype_to_bf16(source: Path, output: Path, n_threads: int) -> None:
    """Write a copy of `source` with BF16 matrices, using llama.cpp's quantize call. Raises `ModelFileError`."""
    start_backend()
    params = llama.llama_model_quantize_default_params()
    params.nthread = n_threads
    params.ftype = llama.LLAMA_FTYPE_MOSTLY_BF16
    _log.forget_errors()
    code = llama.llama_model_quantize(str(source).encode(), str(output).encode(), ctypes.byref(params))
    if code != 0:
        raise ModelFileError(f"llama.cpp cannot convert {source.name} to BF16: {_log.first_error()}")
