"""Make `graphs/`: references for encoders that `convert/` and `convert_decoders/` lack.

Run by hand, never by the tests, from the repository's root in an environment of its own:

    pip install torch safetensors transformers==5.24.0
    PYTHONPATH=. python tests/data/make_graph_reference.py

graphs/models.json   by name, what `tests/engines/openvino/graph_models.py` needs to write the GGUF:
                     of a Jina BERT `sizes`, and `shapes` and `scale` for `tiny_weights.py`;
                     of a decoder `base` in `decoder_directory.MODELS`, and the `config` and `pooling` to change in it
graphs/<name>.npz    ids: int32, all texts' ids in a row; n_ids: int32[n_texts]; vectors: float32[n_texts, n_embd], as
                     pooled and not normalized, or scores: float32[n_texts, 1]

Qwen2, Qwen3 and Gemma come from transformers. Jina BERT v2 has no class there (its code is remote), so `jina_rows`
computes it after its description:

- The embeddings are those of BERT without positions: token, token type (always 0 here), layer norm.
- ALiBi for both directions: -slope * |i - j| is added to the scaled scores, with the slopes of the ALiBi paper.
- The first models (jina-embeddings-v2-base-en and others): layer norms after the attention's residual and after the
  MLP's. `gated_layers` holds the gate first: gelu(first half) * second half.
- jina-embeddings-v2-base-code: layer norms of the whole query and the whole key before they are split into heads. After
  the attention's own layer norm the layer's input is added once more, with another layer norm (`layer_norm_1`).
  `up_gated_layer` holds the gate last: first half * gelu(second half).

Which tokens see each other in local layers, for the whole window W that the config on the hub and the GGUF declare:

- ModernBERT: config.sliding_window = local_attention // 2, and a token sees all with |i - j| <= W // 2
  (masking_utils.sliding_window_bidirectional_overlay).
- Gemma with use_bidirectional_attention: the config becomes W // 2 + 1, and a token sees all with |i - j| < W // 2 + 1
  (modeling_gemma3._bidirectional_window_overlay, joined by "or" with the causal window of that width).
- llama.cpp, LLAMA_SWA_TYPE_SYMMETRIC for both: a token sees all with |i - j| <= W / 2 in integers
  (llama_hparams::is_masked_swa). All three are the same, for odd W as well.
"""

from __future__ import annotations

import json
import lzma
import math
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from torch.nn import functional

from tests.convert.tokenizers.decoder_directory import MODELS, VECTOR_TEXTS, write_decoder_directory
from tests.data.tiny_weights import make_weights

HERE = Path(__file__).parent / "graphs"
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class JinaSizes:
    """A tiny Jina BERT v2; the vocabulary is the one that `gguf_models.write_bpe` writes."""

    n_embd: int
    n_head: int
    n_ff: int
    is_code: bool  # as jina-embeddings-v2-base-code
    n_layer: int = 3
    n_vocab: int = 269
    n_ctx: int = 256
    eps: float = 1e-12


SCALE = 0.4  # with 0.2 the slopes hardly show
N_IDS = (12, 2, 3, 33, 70, 150)  # of each text
BOS, EOS, N_BYTES = 256, 257, 256
JINA = {
    "jina_bert_v2": JinaSizes(n_embd=96, n_head=6, n_ff=64, is_code=False),  # 6 heads: slopes of both kinds
    "jina_bert_v2_code": JinaSizes(n_embd=64, n_head=4, n_ff=96, is_code=True),
}
SEVEN_LAYERS = [*["sliding_attention"] * 5, "full_attention", "sliding_attention"]  # each sixth is full
DECODERS: dict[str, dict[str, Any]] = {
    "qwen2_last": {"base": "qwen2_embedding", "pooling": "pooling_mode_lasttoken", "config": {}},
    "qwen2_bidirectional": {"base": "qwen2_embedding", "config": {"is_causal": False}},
    "qwen3_linear": {"base": "qwen3_embedding", "config": {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}},
    "qwen3_yarn": {
        "base": "qwen3_embedding",
        "config": {"rope_scaling": {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 32}},
    },
    "gemma_seven_layers": {
        "base": "gemma_embedding",
        "config": {"num_hidden_layers": 7, "layer_types": SEVEN_LAYERS, "sliding_window": 11},
    },
}


def jina_shapes(sizes: JinaSizes) -> dict[str, tuple[int, ...]]:
    """All tensors under their original names."""
    n_embd, n_ff = sizes.n_embd, sizes.n_ff
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.word_embeddings.weight": (sizes.n_vocab, n_embd),
        "embeddings.token_type_embeddings.weight": (2, n_embd),
    }
    norms, linears = ["embeddings.LayerNorm"], {}
    up, down = ("up_gated_layer", "down_layer") if sizes.is_code else ("gated_layers", "wo")
    for layer in range(sizes.n_layer):
        at = f"encoder.layer.{layer}"
        parts = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
        linears |= {f"{at}.{part}": (n_embd, n_embd) for part in parts}
        norms.append(f"{at}.attention.output.LayerNorm")
        norms += [f"{at}.layer_norm_1", f"{at}.layer_norm_2"] if sizes.is_code else [f"{at}.mlp.layernorm"]
        if sizes.is_code:
            norms += [f"{at}.attention.self.layer_norm_q", f"{at}.attention.self.layer_norm_k"]
        shapes[f"{at}.mlp.{up}.weight"] = (2 * n_ff, n_embd)
        linears[f"{at}.mlp.{down}"] = (n_embd, n_ff)
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (n_embd,), f"{name}.bias": (n_embd,)}
    return shapes


def slopes(n_head: int) -> list[float]:
    """The ALiBi paper's slope of each head."""
    power = 2 ** math.floor(math.log2(n_head))
    first = [2 ** (-8 * (head + 1) / power) for head in range(power)]
    return first + [2 ** (-8 * (head + 1) / (2 * power)) for head in range(0, 2 * (n_head - power), 2)]


def jina_rows(weights: Tensors, sizes: JinaSizes, ids: list[int]) -> torch.Tensor:
    """float32[n_tokens, n_embd] of the last layer."""

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(
            x, (sizes.n_embd,), weights[f"{name}.weight"], weights[f"{name}.bias"], eps=sizes.eps
        )

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(ids), sizes.n_head, -1).transpose(0, 1)

    places = torch.arange(len(ids))
    bias = -torch.tensor(slopes(sizes.n_head))[:, None, None] * (places[:, None] - places[None, :]).abs()
    x = weights["embeddings.word_embeddings.weight"][ids] + weights["embeddings.token_type_embeddings.weight"][0]
    x = norm(x, "embeddings.LayerNorm")
    for layer in range(sizes.n_layer):
        at = f"encoder.layer.{layer}"
        query, key, value = (linear(x, f"{at}.attention.self.{part}") for part in ("query", "key", "value"))
        if sizes.is_code:
            query, key = (norm(y, f"{at}.attention.self.layer_norm_{p}") for y, p in ((query, "q"), (key, "k")))
        scores = heads(query) @ heads(key).transpose(1, 2) / math.sqrt(sizes.n_embd // sizes.n_head) + bias
        mixed = (scores.softmax(-1) @ heads(value)).transpose(0, 1).reshape(len(ids), sizes.n_embd)
        attended = norm(linear(mixed, f"{at}.attention.output.dense") + x, f"{at}.attention.output.LayerNorm")
        if sizes.is_code:
            x = norm(x + attended, f"{at}.layer_norm_1")
            up, gate = linear(x, f"{at}.mlp.up_gated_layer").chunk(2, dim=-1)
            x = norm(x + linear(up * functional.gelu(gate), f"{at}.mlp.down_layer"), f"{at}.layer_norm_2")
        else:
            gate, up = linear(attended, f"{at}.mlp.gated_layers").chunk(2, dim=-1)
            x = norm(linear(functional.gelu(gate) * up, f"{at}.mlp.wo") + attended, f"{at}.mlp.layernorm")
    return x


def jina_ids() -> list[list[int]]:
    """Random bytes between <|begin|> and <|end|>; the shortest text has no byte."""
    bits = np.random.PCG64(1)
    return [[BOS, *(int(raw % N_BYTES) for raw in bits.random_raw(n - 2)), EOS] for n in N_IDS]


@torch.no_grad()
def make_jina(name: str, sizes: JinaSizes) -> dict[str, Any]:
    shapes = jina_shapes(sizes)
    weights = {key: torch.from_numpy(value) for key, value in make_weights(shapes, SCALE).items()}
    ids = jina_ids()
    rows = [jina_rows(weights, sizes, text) for text in ids]
    write(name, ids, vectors=np.array([r.mean(0).numpy() for r in rows]))
    if not sizes.is_code:  # llama.cpp's head of jina-reranker-v1: one matrix, then tanh
        head = make_weights({"cls.weight": (1, sizes.n_embd), "cls.bias": (1,)}, SCALE)
        first = np.array([r[0].numpy() for r in rows])
        write(f"{name}_rank", ids, scores=np.tanh(first @ head["cls.weight"].T + head["cls.bias"]))
    return {"sizes": asdict(sizes), "scale": SCALE, "shapes": shapes}


@torch.no_grad()
def make_decoder(name: str, change: Mapping[str, Any], tokenizers: Mapping[str, Any]) -> None:
    base = MODELS[change["base"]]
    pooling = change.get("pooling", base.pooling)
    model = replace(base, pooling=pooling, config=base.config | change["config"])
    tokenizer = tokenizers[model.tokenizer]
    ids = [tokenizer["ids"][key] for key in VECTOR_TEXTS]
    with tempfile.TemporaryDirectory() as scratch:
        folder = write_decoder_directory(Path(scratch), model, tokenizer)
        loaded, report = transformers.AutoModel.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
        )
        assert not any(report.values()), report
        rows = [loaded.eval()(torch.tensor([text])).last_hidden_state[0] for text in ids]
        dense = [load_file(folder / f"{n + 2}_Dense" / "model.safetensors") for n in range(len(model.dense))]
    pooled = torch.stack([r[-1] if pooling == "pooling_mode_lasttoken" else r.mean(0) for r in rows])
    for module in dense:  # sentence-transformers pools first, then come the Dense modules
        pooled = pooled @ module["linear.weight"].T
    write(name, ids, vectors=pooled.numpy())


def write(name: str, ids: list[list[int]], **results: np.ndarray) -> None:
    flat = {"ids": np.concatenate(ids).astype(np.int32), "n_ids": np.array([len(text) for text in ids], np.int32)}
    np.savez_compressed(HERE / f"{name}.npz", **flat, **{k: v.astype(np.float32) for k, v in results.items()})


def main() -> None:
    torch.set_num_threads(1)
    HERE.mkdir(exist_ok=True)
    models = {name: make_jina(name, sizes) for name, sizes in JINA.items()}
    tokenizers = json.loads(lzma.decompress((HERE.parent / "convert_decoders" / "tokenizers.json.xz").read_bytes()))
    for name, change in DECODERS.items():
        make_decoder(name, change, tokenizers)
    (HERE / "models.json").write_text(json.dumps(models | DECODERS) + "\n")


if __name__ == "__main__":
    main()
