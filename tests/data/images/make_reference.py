"""Writes reference.json: a tiny LLaVA in torch and transformers' Qwen3, over the weights that the tests write.

Run from the repository's root with torch, transformers, gguf and numpy: `python -m tests.data.images.make_reference`.
The image is as large as the tower wants it, so that no way of resizing matters.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import gguf
import numpy as np
import torch
from torch.nn import functional
from transformers import Qwen3Config, Qwen3Model

from tests.gguf_models import write_tiny_decoder
from tests.vision_models import PATCH_SIZE, noise, write_tiny_mmproj

BEFORE, AFTER = [261, 32], [266, 257]
"""The ids of "hello " and of " world" with the EOS behind it."""

N_HEAD = 2


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    return {t.name: torch.tensor(np.array(t.data).reshape(t.shape[::-1])) for t in gguf.GGUFReader(path).tensors}


def tower(t: dict[str, torch.Tensor], pixels: np.ndarray, n_layer: int) -> torch.Tensor:
    """float32[n_patches, n_embd_text]: all layers but the last, as LLaVA reads CLIP, then two linear layers."""
    values = (torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.25
    x = functional.conv2d(values, t["v.patch_embd.weight"], stride=PATCH_SIZE).flatten(2).transpose(1, 2)[0]
    x = x + t["v.position_embd.weight"]
    width = x.shape[1]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.layer_norm(x, (width,), t[f"{name}.weight"], t[f"{name}.bias"], 1e-5)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return functional.linear(x, t[f"{name}.weight"], t[f"{name}.bias"])

    def heads(x: torch.Tensor) -> torch.Tensor:
        return x.view(len(x), N_HEAD, -1).transpose(0, 1)

    x = norm(x, "v.pre_ln")
    for layer in range(n_layer - 1):
        block = f"v.blk.{layer}"
        y = norm(x, f"{block}.ln1")
        q, k, v = (heads(linear(y, f"{block}.attn_{part}")) for part in "qkv")
        attended = functional.scaled_dot_product_attention(q, k, v).transpose(0, 1).reshape(len(x), width)
        x = x + linear(attended, f"{block}.attn_out")
        y = norm(x, f"{block}.ln2")
        x = x + linear(functional.gelu(linear(y, f"{block}.ffn_up"), approximate="tanh"), f"{block}.ffn_down")
    return linear(functional.gelu(linear(x, "mm.0"), approximate="tanh"), "mm.2")


def text_model(t: dict[str, torch.Tensor]) -> Qwen3Model:
    config = Qwen3Config(
        vocab_size=len(t["token_embd.weight"]), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, head_dim=8, rms_norm_eps=1e-6, rope_theta=10000.0,
        max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    model = Qwen3Model(config).eval()
    names = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }  # fmt: skip
    state = {"embed_tokens.weight": t["token_embd.weight"], "norm.weight": t["output_norm.weight"]}
    for layer in range(2):
        for theirs, ours in names.items():
            state[f"layers.{layer}.{theirs}.weight"] = t[f"blk.{layer}.{ours}.weight"]
    model.load_state_dict(state)
    return model


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        decoder = tensors_of(write_tiny_decoder(Path(folder) / "text.gguf"))
        seen = tower(tensors_of(write_tiny_mmproj(Path(folder) / "mmproj.gguf")), noise(1), n_layer=3)
        before, after = (decoder["token_embd.weight"][ids] for ids in (BEFORE, AFTER))
        rows = text_model(decoder)(inputs_embeds=torch.cat([before, seen, after])[None]).last_hidden_state[0]
    reference = {
        "versions": f"torch {torch.__version__}",
        "seen": [float(x) for x in seen[0]],
        "first_of_image": [float(x) for x in rows[len(BEFORE)]],
        "mean": [float(x) for x in rows.mean(0)],
        "last": [float(x) for x in rows[-1]],
    }
    (Path(__file__).parent / "reference.json").write_text(json.dumps(reference, indent=0) + "\n")


if __name__ == "__main__":
    main()
