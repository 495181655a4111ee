"""BF16 copies of F32 and F16 models, for CPUs that multiply BF16 faster. Made once and kept in the cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from gguf_embed.engines.llama import api
from gguf_embed.errors import ModelFileError, WayOut
from gguf_embed.gguf_file.atomic_write import atomic_write
from gguf_embed.gguf_file.header import read_header

RETYPED = frozenset({"F32", "F16"})


def computes_bf16_faster(use_amx: bool) -> bool:
    """Whether BF16 weights run faster here than F16 and F32, with the same precision.

    True only on AMX tiles. ggml's AVX-512 BF16 rounds every activation to 8 bits, so that a text's vector depends on
    its batch (cosine 0.99997), and on CPUs with AMX it is slower than F16 (docs/benchmarks.md).
    """
    return use_amx and api.has_amx_gemm()


def wants_bf16(
    choice: Literal["auto", "file", "bf16"], file_type: str, on_gpu: bool, fast_bf16: bool, *, scores: bool = False
) -> bool:
    """Whether to run a BF16 copy instead of the file. Quantized weights are never converted.

    `scores`: the model is a reranker. Rounding the weights changes a logit by about 0.005, so F32 stays F32.
    """
    if file_type not in RETYPED or choice == "file":
        return False
    if choice == "auto" and scores and file_type == "F32":
        return False
    return choice == "bf16" or (fast_bf16 and not on_gpu)


def bf16_copy(source: Path, cache_dir: Path, n_threads: int, report: Callable[[str], None]) -> Path:
    """The BF16 copy of `source`: from the cache, or written now, which takes about as long as copying the file.

    The copy's name depends on the source's path, size and modification time, so a changed file gets a new copy.
    Raises `ModelFileError` if it cannot be written.
    """
    facts = source.stat()
    identity = f"{source.resolve()}\0{facts.st_size}\0{facts.st_mtime_ns}".encode()
    copy = cache_dir / "bf16" / f"{source.stem}-{hashlib.sha256(identity).hexdigest()[:16]}.gguf"
    if copy.is_file():
        try:
            read_header(copy)
        except ModelFileError:
            report(f"the cached BF16 copy {copy.name} is damaged: writing it again")
        else:
            return copy
    report(f"writing a BF16 copy of {source.name}, once: this CPU computes BF16 faster")
    with atomic_write(copy, ways_out=[WayOut.OTHER_CACHE, WayOut.KEEP_WEIGHTS]) as temporary:
        api.retype_to_bf16(source, temporary, n_threads)
    return copy
