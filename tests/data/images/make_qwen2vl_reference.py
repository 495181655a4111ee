"""Writes qwen2vl.json: transformers' Qwen2-VL over the weights that the tests write.

Run from the repository's root with torch, transformers, gguf and numpy:
`python -m tests.data.images.make_qwen2vl_reference`. The image has a size that the model keeps, so that no way of
resizing matters. llama.cpp puts <|vision_start|> and <|vision_end|> around an image; the tiny vocabulary has no such
tokens, so they are read letter by letter, here as there.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
from transformers import Qwen2VLConfig, Qwen2VLModel

from tests.data.images.make_reference import tensors_of
from tests.vision_models import noise, write_tiny_qwen2vl, write_tiny_qwen2vl_tower

BEFORE = [261, 32, *b"<|vision_start|>"]
"""The ids of "hello " and what follows it."""

AFTER = [*b"<|vision_end|>", 266, 268, 32, 101, 110, 100, 257]
"""What follows the image, " world the end" and the EOS."""

PIXELS, PATCH, N_ROWS = 64, 8, 16


def config(n_vocab: int) -> Qwen2VLConfig:
    rope = {"type": "mrope", "rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    text = {
        "vocab_size": n_vocab + 4,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": 128,
        "rope_theta": 10000.0,
        "rope_scaling": rope,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    vision = {
        "depth": 2,
        "embed_dim": 32,
        "hidden_size": 32,
        "hidden_act": "gelu_pytorch_tanh",
        "mlp_ratio": 2,
        "num_heads": 2,
        "in_channels": 3,
        "patch_size": PATCH,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    return Qwen2VLConfig(
        text_config=text, vision_config=vision, image_token_id=n_vocab, video_token_id=n_vocab + 1,
        vision_start_token_id=n_vocab + 2, vision_end_token_id=n_vocab + 3, attn_implementation="eager",
    )  # fmt: skip


def state(t: dict[str, torch.Tensor], v: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The text model's and the tower's tensors under transformers' names."""
    extra = torch.zeros(4, 32)  # of the image's place, which is filled with rows, and three that do not occur
    found = {
        "language_model.embed_tokens.weight": torch.cat([t["token_embd.weight"], extra]),
        "language_model.norm.weight": t["output_norm.weight"],
        "visual.patch_embed.proj.weight": torch.stack([v["v.patch_embd.weight"], v["v.patch_embd.weight.1"]], 2),
    }
    for layer in range(2):
        theirs, ours = f"language_model.layers.{layer}", f"blk.{layer}"
        for name, mine in {
            "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
        }.items():  # fmt: skip
            found[f"{theirs}.{name}.weight"] = t[f"{ours}.{mine}.weight"]
        for kind in ("weight", "bias"):
            for part in "qkv":
                found[f"{theirs}.self_attn.{part}_proj.{kind}"] = t[f"{ours}.attn_{part}.{kind}"]
            block = f"visual.blocks.{layer}"
            found[f"{block}.attn.qkv.{kind}"] = torch.cat([v[f"v.{ours}.attn_{part}.{kind}"] for part in "qkv"])
            for name, mine in {
                "attn.proj": "attn_out", "norm1": "ln1", "norm2": "ln2", "mlp.fc1": "ffn_up", "mlp.fc2": "ffn_down",
            }.items():  # fmt: skip
                found[f"{block}.{name}.{kind}"] = v[f"v.{ours}.{mine}.{kind}"]
    for kind in ("weight", "bias"):
        for name, mine in {"ln_q": "v.post_ln", "mlp.0": "mm.0", "mlp.2": "mm.2"}.items():
            found[f"visual.merger.{name}.{kind}"] = v[f"{mine}.{kind}"]
    return found


def patches() -> torch.Tensor:
    """The image as both frames of a patch, in the order of Qwen2-VL's image processor: four that merge together."""
    n = PIXELS // PATCH
    values = (torch.tensor(noise(1, PIXELS)).permute(2, 0, 1).float() / 255 - 0.5) / 0.25
    cut = values[None].repeat(2, 1, 1, 1).reshape(1, 2, 3, n // 2, 2, PATCH, n // 2, 2, PATCH)
    return cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(n * n, 3 * 2 * PATCH * PATCH)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        text = tensors_of(write_tiny_qwen2vl(Path(folder) / "text.gguf"))
        tower = tensors_of(write_tiny_qwen2vl_tower(Path(folder) / "tower.gguf"))
        n_vocab = len(text["token_embd.weight"])
        model = Qwen2VLModel(config(n_vocab)).eval()
        model.load_state_dict(state(text, tower))
        rows = model(
            input_ids=torch.tensor([[*BEFORE, *[n_vocab] * N_ROWS, *AFTER]]),
            pixel_values=patches(),
            image_grid_thw=torch.tensor([[1, PIXELS // PATCH, PIXELS // PATCH]]),
            mm_token_type_ids=torch.tensor([[*[0] * len(BEFORE), *[1] * N_ROWS, *[0] * len(AFTER)]]),
        ).last_hidden_state[0]
    reference = {"mean": rows.mean(0).tolist(), "last": rows[-1].tolist()}
    (Path(__file__).parent / "qwen2vl.json").write_text(json.dumps(reference, indent=0) + "\n")


if __name__ == "__main__":
    main()
