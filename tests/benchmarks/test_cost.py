import gguf
import numpy as np
import pytest

from benchmarks.cost import AttentionLayers, ModelCost, read_model_cost
from gguf_embed.errors import ModelFileError


def test_cost_is_linear_in_tokens_but_for_attention():
    cost = ModelCost({(5, 10): 1}, AttentionLayers(1), n_embd=2)
    assert cost.linear_flops_per_token == 100
    assert cost.of_texts([3, 1]) == 3 * 100 + 9 * 8 + 100 + 8


@pytest.mark.parametrize(("n_tokens", "pairs"), [(10, 3 * 100), (200, 200 * 200 + 2 * 200 * 128)])
def test_a_local_layer_attends_to_its_window_at_most(n_tokens, pairs):
    assert AttentionLayers(1, 2, window=128).pairs(n_tokens) == pairs


def write(path, keys=()):
    writer = gguf.GGUFWriter(path, "modern-bert")
    writer.add_block_count(5)
    writer.add_embedding_length(32)
    for key, value in keys:
        writer.add_uint32(f"modern-bert.attention.{key}", value)
    writer.add_tensor("token_embd.weight", np.zeros((99, 32), np.float32))
    for layer in range(5):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((64, 32), np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_up.bias", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_layers_matrices_count_and_embeddings_and_vectors_do_not(tmp_path):
    assert read_model_cost(write(tmp_path / "m.gguf")) == ModelCost({(32, 64): 5}, AttentionLayers(5), 32)


def test_every_nth_layer_is_global_where_the_file_says_so(tmp_path):
    path = write(tmp_path / "m.gguf", [("sliding_window", 128), ("sliding_window_pattern", 3)])
    assert read_model_cost(path).layers == AttentionLayers(2, 3, 128)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere\.gguf"):
        read_model_cost(tmp_path / "nowhere.gguf")
