"""sentence-transformers' Dense modules after the pooling, which llama.cpp computes only for Gemma embeddings."""

from __future__ import annotations

from dataclasses import dataclass

import gguf

from gguf_embed.convert.plan import OutType, PlannedTensor, matrix_type
from gguf_embed.convert.safetensors import list_tensors
from gguf_embed.convert.source import ModelSourceDirectory, SourceModule, read_json, read_modules
from gguf_embed.errors import ModelFileError

_NAMES = ("dense_2", "dense_3")  # llama.cpp's names, from EmbeddingGemma's folders 2_Dense and 3_Dense


@dataclass(frozen=True, slots=True)
class DenseLayer:
    """A matrix by which the pooled vector is multiplied."""

    name: str
    n_in: int
    n_out: int
    tensor: PlannedTensor

    def write(self, writer: gguf.GGUFWriter) -> None:
        writer.add_dense_features_dims(self.name, self.n_in, self.n_out)


def plan_dense(source: ModelSourceDirectory, n_embd: int, outtype: OutType) -> tuple[DenseLayer, ...]:
    """The Dense modules in order; none for a model without them.

    Raises `ModelFileError` for anything llama.cpp does not compute: more than two, a bias, an activation, or modules
    that do not begin and end with the model's own width (for the latter it ends the process).
    """
    modules = [module for module in read_modules(source) if module.kind == "Dense"]
    if len(modules) > len(_NAMES):
        raise ModelFileError(f"{source.path}: its {len(modules)} Dense modules cannot be converted (at most two)")
    layers = tuple(_read_layer(module, name, outtype) for module, name in zip(modules, _NAMES, strict=False))
    widths = [n_embd, *(layer.n_out for layer in layers)]
    if [layer.n_in for layer in layers] != widths[:-1] or widths[-1] != n_embd:
        chain = ", ".join(f"{layer.n_in} to {layer.n_out}" for layer in layers)
        raise ModelFileError(
            f"{source.path}: Dense modules from {chain} cannot be converted: llama.cpp needs {n_embd} at both ends"
        )
    return layers


def _read_layer(module: SourceModule, name: str, outtype: OutType) -> DenseLayer:
    config = read_json(module.folder / "config.json")
    activation = str(config.get("activation_function", "")).rpartition(".")[2]
    tensors = list_tensors(module.folder)
    if activation != "Identity" or set(tensors) != {"linear.weight"} or len(tensors["linear.weight"].shape) != 2:
        raise ModelFileError(
            f"{module.folder}: a Dense module with {activation or 'no'} activation and {', '.join(sorted(tensors))} "
            "cannot be converted (only Identity and a matrix linear.weight)"
        )
    stored = tensors["linear.weight"]
    n_out, n_in = stored.shape
    planned = PlannedTensor(f"{name}.weight", stored, matrix_type(outtype, stored.shape))
    return DenseLayer(name, n_in, n_out, planned)
