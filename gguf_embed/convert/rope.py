"""Rotary position embedding: its settings in a config, in either of transformers' two forms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gguf

from gguf_embed.convert.source import ModelSourceDirectory
from gguf_embed.errors import ModelFileError

_DEFAULT_THETA = 10000.0
_YARN_KEYS = {
    "extrapolation_factor": "add_rope_scaling_yarn_ext_factor",
    "attention_factor": "add_rope_scaling_yarn_attn_factor",
    "beta_fast": "add_rope_scaling_yarn_beta_fast",
    "beta_slow": "add_rope_scaling_yarn_beta_slow",
}


@dataclass(frozen=True, slots=True)
class Rope:
    """Base frequencies, and how positions beyond the original training length are scaled."""

    theta: float
    theta_sliding: float | None = None  # of layers with a sliding window, if different
    scaling: Mapping[str, Any] = field(default_factory=dict)  # with "rope_type" and "factor"; empty: none

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_rope_freq_base(self.theta)
        if self.theta_sliding is not None:
            writer.add_rope_freq_base_swa(self.theta_sliding)
        if not self.scaling:
            return
        writer.add_rope_scaling_type(gguf.RopeScalingType(self.scaling["rope_type"]))
        writer.add_rope_scaling_factor(float(self.scaling["factor"]))
        if self.scaling["rope_type"] == "yarn":
            writer.add_rope_scaling_orig_ctx_len(int(self.scaling["original_max_position_embeddings"]))
            for key, method in _YARN_KEYS.items():
                if self.scaling.get(key) is not None:
                    getattr(writer, method)(float(self.scaling[key]))


def read_rope(source: ModelSourceDirectory, default_theta: float = _DEFAULT_THETA) -> Rope:
    """Read `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling`, `rope_local_base_freq` (before).

    Raises `ModelFileError` for a scaling for which llama.cpp has no key.
    """
    parameters = source.config.get("rope_parameters") or {}
    full = parameters.get("full_attention", parameters)
    sliding = parameters.get("sliding_attention", {})
    scaling = dict(source.config.get("rope_scaling") or full)
    scaling["rope_type"] = scaling.get("rope_type") or scaling.get("type") or "default"
    _check_scaling(source, scaling, sliding)
    theta = full.get("rope_theta", source.config.get("rope_theta", default_theta))
    local = sliding.get("rope_theta", source.config.get("rope_local_base_freq"))
    scaled = scaling["rope_type"] != "default"
    return Rope(float(theta), None if local is None else float(local), scaling if scaled else {})


def _check_scaling(source: ModelSourceDirectory, scaling: Mapping[str, Any], sliding: Mapping[str, Any]) -> None:
    kind = scaling["rope_type"]
    needed = {"default": (), "linear": ("factor",), "yarn": ("factor", "original_max_position_embeddings")}
    missing = [key for key in needed.get(kind, ()) if not isinstance(scaling.get(key), int | float)]
    if kind not in needed or missing or sliding.get("rope_type", "default") != "default":
        what = f" without {', '.join(missing)}" if missing else ""
        raise ModelFileError(
            f"{source.path / 'config.json'}: rotary embedding of type {kind!r}{what} cannot be converted "
            f"(only {', '.join(needed)}, and default for a sliding window)"
        )
