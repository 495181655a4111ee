/* BF16 matrix multiplication on Intel AMX tiles for ggml's CPU back end.
 *
 * ggml computes BF16 weights with AVX-512 only, although AMX (Sapphire Rapids and later) does the same sums many times
 * faster. ggml-cpu calls its own exported function `llamafile_sgemm` through the dynamic linker for every matrix
 * multiplication; this library exports the same name and is loaded first, so the call arrives here. Shapes that suit
 * the tiles are computed here, everything else goes on to ggml's own function. See engines/llama/amx.py for when it is used.
 *
 * More exact than ggml's BF16 path: an F32 activation goes in as the sum of two BF16 values (16 bits instead of 8),
 * so only the weights are rounded. Products are exact and summed in F32.
 */
#if defined(__x86_64__) && defined(__linux__) /* elsewhere this file compiles to nothing, and nothing uses it */
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { TYPE_F32 = 0, TYPE_BF16 = 30 };        /* ggml.h, enum ggml_type */
enum { TILE_ROWS = 16, TILE_K = 32 };         /* one tile: 16 rows of 32 BF16 values */
enum { PANEL = 2 * TILE_ROWS, GROUP = 256 };  /* weight rows packed at once; tokens multiplied with them */

/* The first members of ggml's struct ggml_compute_params (ggml-cpu-impl.h); nothing more is read of it. */
struct compute_params {
    int ith, nth;
};

typedef bool (*sgemm_fn)(const struct compute_params *, int64_t, int64_t, int64_t, const void *, int64_t, const void *,
                         int64_t, void *, int64_t, int, int, int);

static sgemm_fn ggml_sgemm;
static bool enabled;
static uint64_t n_computed; /* matrix multiplications done here; a lost count is harmless */

/* Ask Linux for permission to use tile data; it holds for the whole process. Returns 0 when granted. */
long gguf_embed_amx_request(void) {
    enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };
    return syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA);
}

/* `original` is ggml's own llamafile_sgemm, where everything that does not suit the tiles goes. */
void gguf_embed_amx_enable(sgemm_fn original, bool on) {
    ggml_sgemm = original;
    enabled = on;
}

/* How many multiplications were computed here so far: shows that ggml's calls do arrive. */
uint64_t gguf_embed_amx_computed(void) {
    return n_computed;
}

struct tile_config {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

/* Tiles 0..3 hold sums (two token blocks by two weight blocks), 4 and 5 the two blocks' tokens, 6 and 7 weights.
 * A tile's rows must match in every multiplication, else the CPU refuses it: without a second block 5 is not used. */
__attribute__((target("amx-tile"))) static void configure(int rows0, int rows1) {
    const uint8_t rows[8] = {rows0, rows0, rows1, rows1, rows0, rows1, TILE_ROWS, TILE_ROWS};
    struct tile_config config;
    memset(&config, 0, sizeof config);
    config.palette = 1;
    for (int t = 0; t < 8; t++) {
        config.row_bytes[t] = 64;
        config.rows[t] = rows[t] ? rows[t] : 1;
    }
    /* Not _tile_loadconfig: GCC 12 tells the compiler of 8 of its 64 bytes only, and the stores above are dropped. */
    __asm__ volatile("ldtilecfg %0" : : "m"(config));
}

/* Transpose a 16 x 16 block of 32-bit values: row stride `stride` bytes in, 64 bytes out. */
__attribute__((target("avx512f"))) static inline void transpose_block(const char *in, int64_t stride, char *out) {
    __m512i r[16], t[16];
    for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(in + i * stride);
    for (int i = 0; i < 16; i += 2) {
        t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        _mm512_store_si512(out + 64 * i, _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88));
        _mm512_store_si512(out + 64 * (i + 8), _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd));
        _mm512_store_si512(out + 64 * (i + 4), _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88));
        _mm512_store_si512(out + 64 * (i + 12), _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd));
    }
}

/* Weights of one panel in the order that the tile instruction reads them: per 32 values of k, two tiles of 16 rows. */
__attribute__((target("avx512f"))) static void pack_panel(const uint16_t *weights, int64_t lda, int64_t k, char *out) {
    for (int64_t kk = 0; kk < k; kk += TILE_K, out += 2048) {
        transpose_block((const char *)(weights + kk), lda * 2, out);
        transpose_block((const char *)(weights + TILE_ROWS * lda + kk), lda * 2, out + 1024);
    }
}

/* F32 rows as two BF16 rows each, high + low: together 16 bits of every value. Rows of `k` come out one after another. */
__attribute__((target("avx512f,avx512bw,avx512bf16"))) static void split_rows(const float *in, int64_t stride, int64_t n,
                                                                             int64_t k, uint16_t *high, uint16_t *low) {
    for (int64_t j = 0; j < n; j++, in += stride) {
        for (int64_t kk = 0; kk < k; kk += TILE_K, high += TILE_K, low += TILE_K) {
            const __m512 a = _mm512_loadu_ps(in + kk), b = _mm512_loadu_ps(in + kk + 16);
            const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(b, a);
            const __m512i a16 = _mm512_cvtepu16_epi32(_mm512_castsi512_si256(both));
            const __m512i b16 = _mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(both, 1));
            const __m512 a_rest = _mm512_sub_ps(a, _mm512_castsi512_ps(_mm512_slli_epi32(a16, 16)));
            const __m512 b_rest = _mm512_sub_ps(b, _mm512_castsi512_ps(_mm512_slli_epi32(b16, 16)));
            _mm512_storeu_si512(high, both);
            _mm512_storeu_si512(low, (__m512i)_mm512_cvtne2ps_pbh(b_rest, a_rest));
        }
    }
}

/* Up to 32 tokens by one panel. `second`: there are more than 16 tokens. */
__attribute__((target("amx-tile,amx-bf16"))) static void block(const uint16_t *high, const uint16_t *low, int64_t k,
                                                              const char *panel, float *sums, int64_t ldc, bool second) {
    const int64_t in = k * 2, out = ldc * 4, next = TILE_ROWS * k;
    _tile_zero(0);
    _tile_zero(1);
    if (!second) {
        for (int64_t kk = 0; kk < k; kk += TILE_K, panel += 2048) {
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + 1024, 64);
            _tile_loadd(4, high + kk, in);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(4, low + kk, in);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
        }
    } else {
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t kk = 0; kk < k; kk += TILE_K, panel += 2048) {
            _tile_loadd(6, panel, 64);
            _tile_loadd(7, panel + 1024, 64);
            _tile_loadd(4, high + kk, in);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, high + next + kk, in);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            _tile_loadd(4, low + kk, in);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, low + next + kk, in);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(2, sums + TILE_ROWS * ldc, out);
        _tile_stored(3, sums + TILE_ROWS * ldc + TILE_ROWS, out);
    }
    _tile_stored(0, sums, out);
    _tile_stored(1, sums + TILE_ROWS, out);
}

/* This thread's room for one packed panel and the split tokens of one group; freed with the thread.
 * Without memory the process ends: threads that share a multiplication must all do it or none. */
static pthread_key_t room_key;
static pthread_once_t room_once = PTHREAD_ONCE_INIT;

static void make_room_key(void) {
    pthread_key_create(&room_key, free);
}

static char *scratch(int64_t size) {
    static _Thread_local char *room;
    static _Thread_local int64_t room_size;
    if (size > room_size) {
        pthread_once(&room_once, make_room_key);
        free(room);
        room = aligned_alloc(64, (size + 63) / 64 * 64);
        if (!room) abort();
        room_size = size;
        pthread_setspecific(room_key, room);
    }
    return room;
}

/* One group of up to GROUP tokens by this thread's share of the panels. */
__attribute__((target("amx-tile"))) static void multiply_group(const struct compute_params *params, int64_t m, int64_t n,
                                                              int64_t k, const uint16_t *weights, int64_t lda,
                                                              const uint16_t *high, const uint16_t *low, char *panel,
                                                              float *sums, int64_t ldc) {
    const int64_t panels = m / PANEL, tail = n % PANEL, full = n - tail;
    const int64_t first = panels * params->ith / params->nth, last = panels * (params->ith + 1) / params->nth;
    for (int64_t p = first; p < last; p++) {
        pack_panel(weights + p * PANEL * lda, lda, k, panel);
        __asm__ volatile("" ::: "memory"); /* GCC 12 does not know that tile loads read what was just written */
        if (full && (p == first || tail)) configure(TILE_ROWS, TILE_ROWS);
        for (int64_t j = 0; j < full; j += PANEL) {
            block(high + j * k, low + j * k, k, panel, sums + j * ldc + p * PANEL, ldc, true);
        }
        if (tail) {
            configure(tail < TILE_ROWS ? (int)tail : TILE_ROWS, tail > TILE_ROWS ? (int)tail - TILE_ROWS : 0);
            block(high + full * k, low + full * k, k, panel, sums + full * ldc + p * PANEL, ldc, tail > TILE_ROWS);
        }
    }
    _tile_release();
}

static void multiply(const struct compute_params *params, int64_t m, int64_t n, int64_t k, const uint16_t *weights,
                     int64_t lda, const float *tokens, int64_t ldb, float *sums, int64_t ldc) {
    const int64_t group = n < GROUP ? n : GROUP;
    char *panel = scratch(2 * k * PANEL + 4 * k * group);
    uint16_t *high = (uint16_t *)(panel + 2 * k * PANEL), *low = high + k * group;
    for (int64_t j = 0; j < n; j += GROUP) {
        const int64_t here = n - j < GROUP ? n - j : GROUP;
        split_rows(tokens + j * ldb, ldb, here, k, high, low);
        __asm__ volatile("" ::: "memory");
        multiply_group(params, m, here, k, weights, lda, high, low, panel, sums + j * ldc, ldc);
    }
}

/* The same for one thread and rows without gaps, outside of ggml: for measuring and tests. m and k must suit the tiles. */
void gguf_embed_amx_multiply(int64_t m, int64_t n, int64_t k, const uint16_t *weights, const float *tokens, float *sums) {
    const struct compute_params alone = {0, 1};
    multiply(&alone, m, n, k, weights, k, tokens, k, sums, m);
}

/* sums[j * ldc + i] = weights row i · tokens row j; m weight rows, n token rows, k values each. False: not done. */
bool llamafile_sgemm(const struct compute_params *params, int64_t m, int64_t n, int64_t k, const void *A, int64_t lda,
                     const void *B, int64_t ldb, void *C, int64_t ldc, int a_type, int b_type, int c_type) {
    const bool suits = a_type == TYPE_BF16 && b_type == TYPE_F32 && c_type == TYPE_F32 && m % PANEL == 0 &&
                       k % TILE_K == 0 && n > 1;
    if (enabled && suits) {
        multiply(params, m, n, k, A, lda, B, ldb, C, ldc);
        if (params->ith == 0) n_computed++;
        return true;
    }
    return ggml_sgemm && ggml_sgemm(params, m, n, k, A, lda, B, ldb, C, ldc, a_type, b_type, c_type);
}
#endif
