"""Make `towers/nomic_vision`: a tiny image tower of nomic-embed-vision, and what the original code answers with it.

Run by hand, never by the tests, from the repository's root in an environment of its own. The original code is that of
nomic-ai/contrastors (src/contrastors/models/huggingface, commit 613ddfd), which transformers does not have:

    pip install torch==2.13.0 transformers==5.24.0 pillow==13.0.0 einops==0.8.2
    PYTHONPATH=.:FOLDER python tests/data/make_nomic_vision_reference.py

FOLDER has a folder `huggingface` with modeling_hf_nomic_bert.py, configuration_hf_nomic_bert.py and an empty
__init__.py.

towers/nomic_vision/   config.json, preprocessor_config.json, weights.json as in `make_tower_reference.py`
    images.npz         images: float32[n_images, n], of `towers/pictures`, not normalized
"""

from __future__ import annotations

import io
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from huggingface.configuration_hf_nomic_bert import NomicBertConfig
from huggingface.modeling_hf_nomic_bert import NomicVisionModel
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor

from tests.data.tower_directories import DATA, write_directory

NAME = "nomic_vision"
SCALE = 0.25
CONFIG = {
    "model_type": "nomic_bert", "architectures": ["NomicVisionModel"], "activation_function": "swiglu",
    "n_embd": 64, "n_head": 4, "n_layer": 2, "n_inner": 96, "layer_norm_epsilon": 1e-3,
    "img_size": 32, "patch_size": 8, "num_channels": 3, "ref_feat_shape": [6, 6],
    "prenorm": True, "norm_mlp": True, "no_last_ln": True, "causal": False, "use_rms_norm": False,
    "qkv_proj_bias": True, "mlp_fc1_bias": True, "mlp_fc2_bias": True, "patch_embed_bias": True,
    "use_rotary_pos_emb": True, "rotary_emb_fraction": 0, "rotary_emb_base": 10000, "use_pos_embed": True,
    "learned_pos_embedding": False, "sinusoidal_pos_embedding": False, "no_embed_class": False, "no_cls_token": False,
    "register_tokens": 0, "mask_token": False, "global_pool": None, "layer_scale": False,
    "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "vocab_size": 0, "n_positions": 0,
    "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
"""The names and values of nomic-embed-vision-v1.5, with smaller sizes. There `ref_feat_shape` is the picture's grid."""


def main() -> None:
    folder = DATA / NAME
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | {"n_inner": 96.0}))  # a float, as in the original
    size = CONFIG["img_size"]
    processor = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": size},
        "crop_size": {"height": size, "width": size}, "resample": 3, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    model = NomicVisionModel(NomicBertConfig(**CONFIG)).eval()
    shapes = {key: list(value.shape) for key, value in model.state_dict().items()}
    (folder / "weights.json").write_text(json.dumps({"shapes": shapes, "scale": SCALE}))
    with tempfile.TemporaryDirectory() as scratch:
        path = write_directory(NAME, Path(scratch) / NAME)
        model.load_state_dict(load_file(path / "model.safetensors"))
        images = CLIPImageProcessor.from_pretrained(path)
        found = []
        with torch.no_grad():
            for file in sorted((DATA / "pictures").iterdir()):
                pixels = images(Image.open(io.BytesIO(file.read_bytes())), return_tensors="pt").pixel_values
                found.append(model(pixels).last_hidden_state[0, 0].numpy())
    np.savez_compressed(folder / "images.npz", images=np.array(found, np.float32))


if __name__ == "__main__":
    main()
