"""The AMX kernel against numpy, called like ggml calls it; and how it replaces ggml's own function."""

from __future__ import annotations

import ctypes
import mmap
import platform
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from gguf_embed.engines.llama import amx, api
from gguf_embed.engines.llama.engine import LlamaEngine, LlamaEngineConfig
from gguf_embed.types import FloatMatrix, Pooling
from tests.engines.contexts import context_spec
from tests.gguf_models import write_tiny_encoder
from tests.test_exactness import assert_close

HAS_AMX = amx.preload() is not None
needs_amx = pytest.mark.skipif(not HAS_AMX, reason="this CPU or kernel has no AMX tiles, or the extension is not built")

F32, F16, BF16, Q8_0 = 0, 1, 30, 8  # ggml.h, enum ggml_type
UNTOUCHED = np.float32(-12345.0)


class ComputeParams(ctypes.Structure):
    _fields_ = [("ith", ctypes.c_int), ("nth", ctypes.c_int)]


SGEMM = ctypes.CFUNCTYPE(
    ctypes.c_bool,
    ctypes.POINTER(ComputeParams),
    *[ctypes.c_int64] * 3,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    *[ctypes.c_int] * 3,
)


@dataclass(frozen=True, slots=True)
class Product:
    """One multiplication's arrays: weights float32[m, lda], tokens float32[n, ldb], sums float32[n + 2, ldc].

    Columns from `k` on and the first and last row of `sums` are there to be left alone.
    """

    m: int
    n: int
    k: int
    weights: NDArray[np.uint16]
    tokens: FloatMatrix
    sums: FloatMatrix

    def expected(self) -> NDArray[np.float64]:
        weights = (self.weights[:, : self.k].astype(np.uint32) << 16).view(np.float32)
        return self.tokens[:, : self.k].astype(np.float64) @ weights.astype(np.float64).T

    def result(self) -> FloatMatrix:
        return self.sums[1:-1, : self.m]

    def assert_right(self) -> None:
        """Close to the exact product, and nothing else written.

        Each token value counts with 16 bits, so a sum of products may be off by 2⁻¹⁶ of the sum of their magnitudes.
        """
        weights = (self.weights[:, : self.k].astype(np.uint32) << 16).view(np.float32)
        magnitudes = np.abs(self.tokens[:, : self.k]).astype(np.float64) @ np.abs(weights).astype(np.float64).T
        assert (np.abs(self.result() - self.expected()) <= 2.0**-16 * magnitudes + 1e-30).all()
        assert (self.sums[[0, -1]] == UNTOUCHED).all()
        assert (self.sums[:, self.m :] == UNTOUCHED).all()


def make_product(m: int, n: int, k: int, *, pad: int = 0, seed: int = 0) -> Product:
    """`pad`: values between the rows of every matrix that do not belong to it; NaN where they are only read."""
    random = np.random.default_rng(seed)
    weights = random.standard_normal((m, k + pad)).astype(np.float32).view(np.uint32) >> 16
    tokens = random.standard_normal((n, k + pad)).astype(np.float32)
    weights[:, k:] = 0x7FC0
    tokens[:, k:] = np.nan
    return Product(m, n, k, weights.astype(np.uint16), tokens, np.full((n + 2, m + pad), UNTOUCHED, np.float32))


@dataclass(slots=True)
class Kernel:
    """A private copy of the library: the loaded one belongs to llama.cpp in this process."""

    library: ctypes.CDLL
    passed_on: list[tuple[int, int]] = field(default_factory=list)  # (ith, a_type) of calls that reached ggml's own
    original: object = None

    def __post_init__(self) -> None:
        self.library.llamafile_sgemm.argtypes = SGEMM._argtypes_
        self.library.llamafile_sgemm.restype = ctypes.c_bool
        self.library.gguf_embed_amx_enable.argtypes = [SGEMM, ctypes.c_bool]
        self.library.gguf_embed_amx_computed.restype = ctypes.c_uint64

        def take(params, m, n, k, a, lda, b, ldb, c, ldc, a_type, b_type, c_type):
            self.passed_on.append((params.contents.ith, a_type))
            return True

        self.original = SGEMM(take)
        self.library.gguf_embed_amx_enable(self.original, True)

    @property
    def n_computed(self) -> int:
        return self.library.gguf_embed_amx_computed()

    def run(self, product: Product, ith: int = 0, nth: int = 1, types: tuple[int, int, int] = (BF16, F32, F32)) -> bool:
        return self.library.llamafile_sgemm(
            ComputeParams(ith, nth),
            product.m,
            product.n,
            product.k,
            product.weights.ctypes.data,
            product.weights.shape[1],
            product.tokens.ctypes.data,
            product.tokens.shape[1],
            product.sums[1:].ctypes.data,
            product.sums.shape[1],
            *types,
        )


@pytest.fixture
def kernel(tmp_path) -> Kernel:
    (built,) = sorted(Path(amx.__file__).parent.glob("_amx_gemm*.so"))[:1]
    library = ctypes.CDLL(str(shutil.copy(built, tmp_path / "amx.so")), mode=ctypes.RTLD_LOCAL)
    assert library.gguf_embed_amx_request() == 0
    return Kernel(library)


@needs_amx
@pytest.mark.parametrize("k", [32, 64, 384, 1536])
@pytest.mark.parametrize("m", [32, 64, 96, 384])
def test_products_are_numpy_s_for_every_number_of_tokens(kernel, m, k):
    for n in (*range(2, 71), 255, 256, 257, 300):
        product = make_product(m, n, k, seed=n)
        assert kernel.run(product)
        product.assert_right()
    assert not kernel.passed_on


@needs_amx
@pytest.mark.parametrize("n", [2, 17, 33, 64, 290])
def test_rows_may_be_wider_than_what_is_multiplied(kernel, n):
    product = make_product(96, n, 64, pad=24)
    assert kernel.run(product)
    product.assert_right()


@needs_amx
@pytest.mark.parametrize("nth", [1, 2, 3, 5])
@pytest.mark.parametrize("m", [32, 96, 384])
def test_threads_share_the_rows_even_with_more_threads_than_panels(kernel, m, nth):
    product = make_product(m, 40, 384, pad=8)
    for ith in range(nth):
        assert kernel.run(product, ith, nth)
    product.assert_right()
    assert kernel.n_computed == 1


@needs_amx
def test_a_token_s_sums_do_not_depend_on_its_neighbours(kernel):
    whole = make_product(64, 300, 384)
    kernel.run(whole)
    for start, end in ((0, 2), (5, 21), (17, 50), (250, 300)):
        part = Product(64, end - start, 384, whole.weights, whole.tokens[start:end], whole.sums[start : end + 2].copy())
        kernel.run(part)
        np.testing.assert_array_equal(part.result(), whole.result()[start:end])


@needs_amx
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_a_token_that_is_not_finite_spoils_its_own_row_only(kernel, bad):
    product = make_product(32, 20, 64)
    product.tokens[7, 3] = bad
    kernel.run(product)
    finite = np.isfinite(product.result()).all(axis=1)
    assert finite.tolist() == [row != 7 for row in range(20)]


@needs_amx
def test_very_large_and_very_small_values_keep_their_size(kernel):
    product = make_product(32, 4, 32)
    product.tokens[:] = np.array([[1e30], [1e-30], [0.0], [-1.0]], np.float32)
    kernel.run(product)
    product.assert_right()


@needs_amx
@pytest.mark.parametrize(
    ("shape", "types"),
    [
        pytest.param((33, 4, 32), (BF16, F32, F32), id="m"),
        pytest.param((48, 4, 32), (BF16, F32, F32), id="half a panel"),
        pytest.param((32, 4, 33), (BF16, F32, F32), id="k"),
        pytest.param((32, 4, 48), (BF16, F32, F32), id="half a tile"),
        pytest.param((32, 4, 32), (F32, F32, F32), id="F32 weights"),
        pytest.param((32, 4, 32), (F16, F32, F32), id="F16 weights"),
        pytest.param((32, 4, 32), (Q8_0, Q8_0, F32), id="Q8_0 weights"),
        pytest.param((32, 4, 32), (BF16, BF16, F32), id="BF16 tokens"),
        pytest.param((32, 4, 32), (BF16, F32, F16), id="F16 sums"),
    ],
)
def test_unsuitable_shapes_are_passed_to_ggml(kernel, shape, types):
    product = make_product(*shape)
    assert kernel.run(product, 1, 2, types)
    assert kernel.passed_on == [(1, types[0])]
    assert (product.sums == UNTOUCHED).all()
    assert kernel.n_computed == 0


@needs_amx
@pytest.mark.parametrize("n", [0, -1])
def test_a_product_without_tokens_is_passed_on(kernel, n):
    product = make_product(32, 2, 32)
    empty = Product(32, n, 32, product.weights, product.tokens, product.sums)
    kernel.run(empty)
    assert len(kernel.passed_on) == 1
    assert (product.sums == UNTOUCHED).all()


@needs_amx
def test_when_disabled_calls_are_passed_on_and_without_an_original_nothing_happens(kernel):
    product = make_product(32, 4, 32)
    kernel.library.gguf_embed_amx_enable(kernel.original, False)
    assert kernel.run(product)
    assert len(kernel.passed_on) == 1
    kernel.library.gguf_embed_amx_enable(SGEMM(), False)
    assert not kernel.run(product)
    assert (product.sums == UNTOUCHED).all()


@needs_amx
def test_threads_started_before_and_after_the_permission_compute_concurrently(kernel):
    def work(seed: int) -> None:
        for n in range(2, 40):
            product = make_product(96, n, 384, seed=seed * 100 + n)
            assert kernel.run(product)
            product.assert_right()

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(work, range(4)))


@needs_amx
@pytest.mark.skipif(platform.machine() != "x86_64", reason="machine code for x86_64")
def test_the_tiles_are_given_back(kernel, tiles_in_use):
    kernel.run(make_product(64, 40, 64))
    assert not tiles_in_use()


@pytest.fixture
def tiles_in_use() -> Iterator[object]:
    """A function that asks the CPU (XGETBV 1) whether this thread holds tile configuration (bit 17) or data (18)."""
    code = bytes.fromhex("b901000000 0f01d0 48c1e220 4809d0 c3")
    with mmap.mmap(-1, len(code), prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(code)
        start = ctypes.c_char.from_buffer(page)
        read = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(start))
        yield lambda: bool(read() & 0b11 << 17)
        del start


@needs_amx
@pytest.mark.parametrize("outtype", ["bf16", "f16", "q8_0"])
def test_ggml_s_bf16_multiplications_arrive_and_no_others(tmp_path, outtype):
    path = write_tiny_encoder(tmp_path / "tiny.gguf", outtype=outtype)
    before = api.n_amx_multiplications()
    vectors = embed(path, use_amx=True)
    assert np.isfinite(vectors).all()
    assert (api.n_amx_multiplications() > before) == (outtype == "bf16")


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0"])
def test_vectors_are_the_same_with_and_without_tiles(tmp_path, outtype):
    path = write_tiny_encoder(tmp_path / "tiny.gguf", outtype=outtype)
    without = embed(path, use_amx=False)
    assert_close(embed(path, use_amx=True), without, 0.9999)


def embed(path: Path, *, use_amx: bool) -> FloatMatrix:
    """Two batches of texts, float32[8, 32]; leaves the kernels off, as they are at the start."""
    texts = [[2, *range(5, 5 + n), 3] for n in (1, 2, 3, 30)]
    api.use_amx_gemm(use_amx)
    try:
        with closing(LlamaEngine(LlamaEngineConfig(path))) as engine:
            spec = context_spec(Pooling.MEAN, max_tokens=64, max_sequences=4)
            with closing(engine.open_context(spec)) as context:
                return np.concatenate([context.embed(texts, 1).matrix, context.embed(texts[::-1], 2).matrix])
    finally:
        api.use_amx_gemm(False)


@pytest.mark.parametrize(
    "flags", [frozenset(), frozenset({"avx512f"}), amx.NEEDED_CPU_FLAGS - {"amx_bf16"}], ids=["none", "some", "one"]
)
def test_a_cpu_without_tiles_loads_nothing(monkeypatch, flags):
    monkeypatch.setattr(amx, "cpu_flags", lambda: flags)
    assert amx.preload() is None


def test_another_system_loads_nothing(monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    assert amx.preload() is None


@pytest.mark.parametrize("content", [b"", b"not a library"])
def test_a_broken_library_is_passed_over(monkeypatch, tmp_path, content):
    (tmp_path / "_amx_gemm.broken.so").write_bytes(content)
    monkeypatch.setattr(amx, "cpu_flags", lambda: amx.NEEDED_CPU_FLAGS)
    monkeypatch.setattr(amx, "__file__", str(tmp_path / "amx.py"))
    assert amx.preload() is None
