import gguf
import numpy as np
import pytest

from benchmarks.cost import ModelCost, read_model_cost
from gguf_embed.errors import ModelFileError


def test_cost_is_linear_in_tokens_but_for_attention():
    cost = ModelCost(linear_flops_per_token=100, attention_flops_per_pair=2)
    assert cost.of_texts([3, 1]) == 3 * 100 + 9 * 2 + 100 + 2


def test_the_layers_matrices_count_and_embeddings_and_vectors_do_not(tmp_path):
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(2)
    writer.add_embedding_length(32)
    writer.add_tensor("token_embd.weight", np.zeros((99, 32), np.float32))
    for layer in range(2):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.zeros((64, 32), np.float32))
        writer.add_tensor(f"blk.{layer}.ffn_up.bias", np.zeros(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_model_cost(path) == ModelCost(2 * 2 * 64 * 32, 4 * 32 * 2)


def test_a_missing_model_is_one_clear_line(tmp_path):
    with pytest.raises(ModelFileError, match=r"nowhere\.gguf"):
        read_model_cost(tmp_path / "nowhere.gguf")
