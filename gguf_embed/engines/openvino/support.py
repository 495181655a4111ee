"""Which files the engine can run, decided from the header alone and without importing OpenVINO."""

from __future__ import annotations

import re
from collections.abc import Collection
from importlib.util import find_spec
from math import isqrt, prod

from gguf_embed.config import ModelConfig
from gguf_embed.engines.cpu_count import threads_for
from gguf_embed.engines.memory import available_bytes
from gguf_embed.engines.openvino.weights import keeps_float16, layer_of
from gguf_embed.gguf_file import towers
from gguf_embed.gguf_file.crisp_layout import CRISP_LAYOUT
from gguf_embed.gguf_file.facts import context_length, has_rank_head
from gguf_embed.gguf_file.graph_only import OWN_ARCHITECTURES
from gguf_embed.gguf_file.header import GgufHeader
from gguf_embed.gguf_file.token_heads import TENSORS as HEAD_TENSORS
from gguf_embed.gguf_file.token_rows import table_bytes

ARCHITECTURES = (
    *("bert", "distilbert", "mpnet", "nomic-bert", "gte", "modern-bert", "jina-bert-v2", "jina-bert-v3"),
    "deberta-v2",
    *("t5encoder", "gemma-embedding", "qwen2", "qwen3"),
    towers.TEXT,
)
"""Those with a graph. `network.py` has a function for each."""

DECODERS = ("qwen2", "qwen3")
TABLE = "token_embd.weight"

_LINEAR = "attn_q|attn_k|attn_v|attn_qkv|attn_output|ffn_up|ffn_down|ffn_gate"
_LAYER_NORMS = "attn_norm|attn_norm_2|attn_output_norm|layer_output_norm|ffn_norm|attn_q_norm|attn_k_norm"
_GEMMA_NORMS = "post_attention_norm|post_ffw_norm"
_MODEL = (
    "token_embd|position_embd|token_types|token_embd_norm|rel_attn_bias|rel_embd|rel_embd_norm|"
    "output_norm|output|dense_2|dense_3"
)
_HEAD = r"cls|cls\.output|cls\.norm"
_T5 = (
    r"enc\.output_norm|"
    r"enc\.blk\.\d+\.(?:attn_norm|attn_q|attn_k|attn_v|attn_o|attn_rel_b|ffn_norm|ffn_gate|ffn_up|ffn_down)"
)
_KNOWN = re.compile(
    rf"(?:blk\.\d+\.(?:{_LINEAR}|{_LAYER_NORMS}|{_GEMMA_NORMS})|{_T5}|{_MODEL}|{_HEAD})"
    r"(?:\.lora_a|\.lora_b)?\.(?:weight|bias)"
)
_IN_TOWER_LAYER = "attn_q|attn_k|attn_v|attn_out|ln1|ln2|ffn_up|ffn_down"
_KNOWN_IN_TOWER = re.compile(
    rf"(?:blk\.\d+\.(?:{_IN_TOWER_LAYER})|token_embd|position_embd|post_ln|projection)\.(?:weight|bias)"
)


_PER_LAYER = ("attention.head_count", "attention.head_count_kv", "feed_forward_length")

FLOAT_BYTES = 4

MAX_MASK_BYTES = 2**30
"""Limit on the attention's masks for one text. ALiBi has one per head: 3 GiB for 8,192 tokens and 12 heads."""

LIBRARY_BYTES = 24 * 2**20
"""Estimate of the memory for the library."""

BUFFER_BYTES = 60 * 2**20
"""Estimate of the memory for a compiled graph's kernels, and for a batch's intermediate results."""

IMAGE_BUFFER_BYTES = 160 * 2**20


def refusal(header: GgufHeader, config: ModelConfig) -> str | None:
    """Why the engine cannot run the file with this configuration; None if it can."""
    if header.architecture not in ARCHITECTURES:
        return f"it has no graph for the architecture {header.architecture}"
    if config.compute.offload.n_gpu_layers != 0 or config.compute.offload.devices not in ((), ("none",)):
        return "it does not use GPUs"
    tower = towers.tower_for(header, config.mmproj)
    if config.mmproj is not None and header.architecture != towers.TEXT and tower is None:
        return "it reads text only, and a vision tower is configured"
    is_ours_only = header.architecture in OWN_ARCHITECTURES or header.get(CRISP_LAYOUT, bool)
    if config.tokenizer == "llama" and is_ours_only:
        return "llama.cpp's tokenizer is configured, and it does not read this file (--tokenizer auto does)"
    if find_spec("openvino") is None:
        return "the package openvino is not installed (pip install 'gguf-embed[openvino]')"
    if (header.architecture == towers.TEXT or tower is not None) and find_spec("PIL") is None:
        return "the package pillow is not installed (pip install 'gguf-embed[openvino]')"
    n_files = header.get("split.count", int) or 1
    if n_files > 1:
        return f"it reads one file, and this model is split into {n_files}"
    return _unknown_part(header) or _too_large(header, config)


def _unknown_part(header: GgufHeader) -> str | None:
    """What the file has that the graph for its architecture does not compute; None if there is nothing."""
    architecture = header.architecture
    known = _KNOWN_IN_TOWER if architecture == towers.TEXT else _KNOWN
    tensors = (name for name in header.tensors if name not in HEAD_TENSORS)
    unknown = next((name for name in tensors if not known.fullmatch(name)), None)
    if unknown is not None:
        return f"its graph for {architecture} has no tensor {unknown}"
    for key in _PER_LAYER:
        if f"{architecture}.{key}" in header.array_lengths:
            return f"its graph for {architecture} has one {key} for all layers"
    scaling = header.get(f"{architecture}.rope.scaling.type", str) or "none"
    if scaling not in ("none", "linear"):
        return f"it does not compute rope scaling {scaling!r}"
    unusual = _unusual_number(header)
    if unusual is not None:
        return unusual
    is_encoder = architecture not in (*DECODERS, "gemma-embedding", "t5encoder", towers.TEXT)
    allowed = (False,) if HEAD_TENSORS.isdisjoint(header.tensors) else (False, None)  # CrispEmbed's files do not say
    if is_encoder and header.get(f"{architecture}.attention.causal", bool) not in allowed:
        return f"{architecture}.attention.causal is not false in the file"
    if architecture == "qwen2" and has_rank_head(header):
        return "its graph for qwen2 has no rank head"
    return None


def _unusual_number(header: GgufHeader) -> str | None:
    """A number with which llama.cpp computes something else than the graphs do; None if there is none."""
    prefix = header.architecture
    keys = ("embedding_length", "attention.head_count", "attention.key_length")
    n_embd, n_head, key_length = (header.get(f"{prefix}.{key}", int) for key in keys)
    head_size = key_length or (n_embd or 0) // (n_head or 1)
    usual: dict[str, float] = {
        "attention.value_length": head_size,
        "attention.key_length_swa": head_size,
        "attention.value_length_swa": head_size,
        "rope.dimension_count_swa": header.get(f"{prefix}.rope.dimension_count", int) or head_size,
        "rope.scaling.attn_factor": 1.0,
        "nextn_predict_layers": 0,
    }
    if prefix not in (*DECODERS, "gemma-embedding"):
        usual["attention.head_count_kv"] = n_head or 0
    if prefix != towers.TEXT:
        usual["embedding_length_out"] = n_embd or 0
    for key, expected in usual.items():
        found = header.metadata.get(f"{prefix}.{key}", expected)
        if found != expected:
            return f"its graph for {prefix} has no {key} of {found}, only {expected:g}"
    return None


def _too_large(header: GgufHeader, config: ModelConfig) -> str | None:
    longest = _longest(header, config)
    masks = _mask_bytes(header, longest)
    if masks > MAX_MASK_BYTES:
        allowed = isqrt(longest**2 * MAX_MASK_BYTES // masks) // 256 * 256
        return (
            f"for texts of {longest:,} tokens the masks of {header.architecture} take {masks / 2**20:,.0f} MiB, the "
            f"limit is {MAX_MASK_BYTES / 2**20:,.0f}, which is enough for -c {allowed}"
        )
    needed, free = peak_bytes(header, config), available_bytes()
    if free is None or needed <= free:
        return None
    reduced = "BF16 and float32" if config.compute.float32_layers else "BF16"
    kind = reduced if _is_reduced(config) else "float32"
    return (
        f"its {kind} weights and buffers need {needed / 2**20:,.0f} MiB of memory for texts of {longest:,} tokens, "
        f"{free / 2**20:,.0f} are available; a smaller -c needs less"
    )


def peak_bytes(header: GgufHeader, config: ModelConfig) -> int:
    """An estimate of the memory that a model takes while its longest text is computed."""
    return resident_bytes(header, config) + longest_text_bytes(header, config) + image_bytes(header, config)


def resident_bytes(header: GgufHeader, config: ModelConfig) -> int:
    """An estimate of the memory that a loaded model takes.

    Before the precision is known, an upper bound: that in float32, in which the model is computed at least once to
    compare BF16 with it, and which takes the most memory of all.
    """
    table, n_graphs, layers = header.tensors.get(TABLE), _n_graphs(config), config.compute.float32_layers
    rows = table_bytes(table) if table is not None else 0
    matrices = _matrix_bytes(header, _is_reduced(config), n_graphs, frozenset(layers))
    return matrices + rows + LIBRARY_BYTES + n_graphs * BUFFER_BYTES


def _is_reduced(config: ModelConfig) -> bool:
    """Whether matrices are multiplied in BF16 for certain, but for those of `float32_layers`."""
    return config.compute.precision == "bf16"


def _n_graphs(config: ModelConfig) -> int:
    """How many graphs a model is compiled to: one for several batches at once, and one for a batch alone."""
    return 1 if config.compute.n_workers == 1 or threads_for(config.compute) == 1 else 2


def image_bytes(header: GgufHeader, config: ModelConfig) -> int:
    """An estimate of the memory that the image tower takes; 0 without one, and for a file that cannot be read."""
    tower = towers.tower_for(header, config.mmproj)
    return _matrix_bytes(tower, _is_reduced(config), 1) + IMAGE_BUFFER_BYTES if tower is not None else 0


def longest_text_bytes(header: GgufHeader, config: ModelConfig) -> int:
    """An estimate of the results of all layers for the longest text, which OpenVINO keeps, and of the masks."""
    longest = _longest(header, config)
    n_embd, n_ff, n_layer = (
        header.get(f"{header.architecture}.{key}", int) or 0
        for key in ("embedding_length", "feed_forward_length", "block_count")
    )
    return FLOAT_BYTES * longest * n_layer * (2 * n_embd + n_ff) + _mask_bytes(header, longest)


def _longest(header: GgufHeader, config: ModelConfig) -> int:
    n_train = context_length(header) or 512
    return min(config.n_ctx or n_train, n_train)


def _mask_bytes(header: GgufHeader, longest: int) -> int:
    """What a token may see: the same for all layers; with ALiBi and learned biases different for each head."""
    n_head = header.get(f"{header.architecture}.attention.head_count", int) or 1
    n_masks = dict.fromkeys(("bert", "distilbert", "nomic-bert", "gte", "jina-bert-v3"), 0) | dict.fromkeys(DECODERS, 1)
    n_masks |= dict.fromkeys(("jina-bert-v2", "mpnet", "t5encoder"), n_head) | {"deberta-v2": 6 * n_head}
    return FLOAT_BYTES * longest**2 * n_masks.get(header.architecture, 2)


def _matrix_bytes(
    header: GgufHeader, is_reduced: bool, n_graphs: int, float32_layers: Collection[int] = frozenset()
) -> int:
    """The matrices as the graph was given them, and as the library packs them for each compiled graph.

    With BF16, those of `float32_layers` are given in the same form, and packed in float32.
    """

    def packed(layer: int | None) -> int:
        is_half = is_reduced and layer not in float32_layers
        return n_graphs * (FLOAT_BYTES // 2 if is_half else FLOAT_BYTES)

    outside = (TABLE, "output.weight")
    n_bytes = 0
    for name, tensor in header.tensors.items():
        if name not in outside:
            is_kept = is_reduced and keeps_float16(name, tensor)
            n_bytes += prod(tensor.shape) * (packed(layer_of(name)) + (FLOAT_BYTES // 2 if is_kept else FLOAT_BYTES))
    distances = header.tensors.get("rel_embd.weight")
    if distances is not None:  # each layer has them as keys and as queries
        n_layer = header.get(f"{header.architecture}.block_count", int) or 0
        n_bytes += 2 * prod(distances.shape) * sum(packed(layer) + FLOAT_BYTES for layer in range(n_layer))
    return n_bytes
