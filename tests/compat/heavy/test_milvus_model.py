"""The model functions of Milvus' Python client, `pymilvus[model]`."""

from __future__ import annotations

import numpy as np
from milvus_model.dense import OpenAIEmbeddingFunction

TEXTS = ["the cat sat on the mat", "hello world"]
MODEL = "all-MiniLM-L6-v2"


def test_openais_function_embeds_queries_and_documents(default_server):
    function = OpenAIEmbeddingFunction(
        model_name=MODEL, api_key="unused", base_url=f"{default_server.url}/v1", dimensions=384
    )
    assert function.dim == 384
    expected = [item["embedding"] for item in default_server.post("/v1/embeddings", {"input": TEXTS}).json()["data"]]
    for found in (function(TEXTS), function.encode_queries(TEXTS), function.encode_documents(TEXTS)):
        np.testing.assert_allclose(np.array(found), expected, atol=1e-6)
