"""Every parser takes any JSON: a request or a refusal, never another error. What it takes is what its schema says."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from gguf_embed.errors import EmbedError, InputTooLong, InvalidRequest, ModelNotFound, NotSupported
from gguf_embed.images.url_allowlist import RemoteHosts
from gguf_embed.server.app import DIALECTS
from gguf_embed.server.dialects.cohere.embed import as_objects, has_images, parse_cohere_embed
from gguf_embed.server.dialects.llama.embedding import parse_llama_embed
from gguf_embed.server.dialects.llama.tokenize import is_tei, parse_detokenize, parse_tokenize
from gguf_embed.server.dialects.ollama.embed import parse_embed as parse_ollama
from gguf_embed.server.dialects.ollama.embed import parse_embeddings
from gguf_embed.server.dialects.ollama.model_names import DESTINATION, NAME, SOURCE, required_name
from gguf_embed.server.dialects.ollama.pull import STREAM
from gguf_embed.server.dialects.openai.contextualized import parse_contextualized
from gguf_embed.server.dialects.openai.embeddings import parse_openai_embed
from gguf_embed.server.dialects.openai.multimodal import check_inputs, parse_multimodal
from gguf_embed.server.dialects.tei.embed import parse_embed as parse_tei
from gguf_embed.server.dialects.tei.embed import parse_similarity
from gguf_embed.server.dialects.tei.embed_sparse import DENSE_FIELDS
from gguf_embed.server.dialects.tei.pairs import parse_pairs
from gguf_embed.server.dialects.tei.predict import parse_texts as parse_predicted
from gguf_embed.server.dialects.tei.tokens import ADD_SPECIAL, SKIP_SPECIAL_TOKENS, parse_ids, parse_texts
from gguf_embed.server.dialects.vllm import classify
from gguf_embed.server.dialects.vllm.pooling import parse_pooling_request
from gguf_embed.server.dialects.vllm.score import parse_score
from gguf_embed.server.docs.markdown import bodies
from gguf_embed.server.docs.openapi import describe
from gguf_embed.server.fields import aliases
from gguf_embed.server.fields.classify import parse_classify
from gguf_embed.server.fields.field import Body
from gguf_embed.server.fields.images import ImageRules, parse_images
from gguf_embed.server.fields.media_forms import with_content_parts
from gguf_embed.server.fields.model import MODEL
from gguf_embed.server.fields.options import refuse_elsewhere
from gguf_embed.server.fields.rerank import RerankDefaults, parse_rerank
from gguf_embed.server.http.terms import PRIORITY_FIELD, parse_priority
from tests.server.fake_service import MODEL as MODEL_INFO

SCHEMAS: Mapping[str, Any] = describe(DIALECTS, "1.2.3", key_needed=False)["components"]["schemas"]
BODIES: Mapping[str, Body] = bodies()
MAX_INPUTS = 9
JsonBody = dict[str, Any]
RULES = ImageRules(RemoteHosts(), MAX_INPUTS)


def without_images(body: JsonBody, param: str) -> JsonBody:
    """What `take_images` leaves of the body."""
    return {**body, param: parse_images(body.get(param), param, RULES).value}


def openai(body: JsonBody) -> None:
    parse_openai_embed(without_images(with_content_parts(body), "input"), MAX_INPUTS).check(MODEL_INFO)


def llama(body: JsonBody) -> None:
    body = without_images(body, "content" if body.get("input") is None else "input")
    parse_llama_embed(body, MAX_INPUTS).check(MODEL_INFO)


def rerank(body: JsonBody) -> None:
    parse_rerank(body, MAX_INPUTS, RerankDefaults())


def names(*fields: Any) -> Callable[[JsonBody], None]:
    return lambda body: [required_name(body, field) for field in fields] and None


def decode(body: JsonBody) -> None:
    parse_ids(body, MAX_INPUTS)
    MODEL.read(body)
    SKIP_SPECIAL_TOKENS.read(body)


def detokenize(body: JsonBody) -> None:
    parse_detokenize(body)
    MODEL.read(body)


def tokenize(body: JsonBody) -> None:
    if is_tei(body):
        parse_texts(body, MAX_INPUTS)
        MODEL.read(body)
        ADD_SPECIAL.read(body)
    else:
        parse_tokenize(body)


def pull(body: JsonBody) -> None:
    required_name(body, NAME)
    STREAM.read(body)


def cohere(body: JsonBody) -> None:
    if has_images(body):
        field, asked = as_objects(body)
        plain = without_images(dict(asked), field)
        body = {name: value for name, value in plain.items() if name != field} | {"inputs": plain[field]}
    parse_cohere_embed(body, MAX_INPUTS)


def multimodal(body: JsonBody) -> None:
    check_inputs(body)
    parse_multimodal(without_images(body, "inputs"), MAX_INPUTS).check(MODEL_INFO)


def parse_sparse(body: JsonBody) -> None:
    refuse_elsewhere(body, DENSE_FIELDS)
    parse_tei(body, MAX_INPUTS)


def predict(body: JsonBody) -> None:
    parse_classify(body, parse_predicted(body, MAX_INPUTS)[0], truncate=True)


PARSERS: Mapping[str, Callable[[JsonBody], Any]] = {
    "OpenAIEmbedRequest": openai,
    "LlamaEmbedRequest": llama,
    "CohereEmbedRequest": cohere,
    "MultimodalRequest": multimodal,
    "TeiEmbedRequest": lambda body: parse_tei(body, MAX_INPUTS),
    "TeiSimilarityRequest": lambda body: parse_similarity(body, MAX_INPUTS),
    "SimilarPairsRequest": lambda body: parse_pairs(body, MAX_INPUTS),
    "TeiDecodeRequest": decode,
    "RerankRequest": rerank,
    "NvidiaRankingRequest": rerank,
    "TokenizeRequest": tokenize,
    "DetokenizeRequest": detokenize,
    "OllamaEmbedRequest": lambda body: parse_ollama(body, MAX_INPUTS),
    "OllamaEmbeddingsRequest": parse_embeddings,
    "OllamaName": names(NAME),
    "OllamaCopyRequest": names(SOURCE, DESTINATION),
    "OllamaPullRequest": pull,
    "TeiSparseRequest": parse_sparse,
    "TeiPredictRequest": predict,
    "ScoreRequest": lambda body: parse_score(body, MAX_INPUTS),
    "ClassifyRequest": lambda body: parse_classify(body, classify.parse_texts(body, MAX_INPUTS)),
    "PoolingRequest": lambda body: parse_pooling_request(body, MAX_INPUTS),
    "ContextualizedRequest": lambda body: parse_contextualized(body, MAX_INPUTS).check(MODEL_INFO),
}

CLIENTS_ERRORS = (InvalidRequest, NotSupported, ModelNotFound, InputTooLong)
WORDS = [
    *("", " ", "a", "a text", "END", "start", "none", "NONE", "Left", "mean", "query", "passage", "5m", "-1", "1h30m"),
    *("float", "int8", "base64", "<__media__>", "skip", "chunk_mean", "embedding", "rank", "utf8", "\ud800", "\x00"),
]
KEYS = [
    "prompt_string",
    "multimodal_data",
    "content",
    "type",
    "text",
    "image_url",
    "url",
    "source_sentence",
    "sentences",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 12),
    st.sampled_from([2**31, 2**63, -(2**70), 3.0, -1.0, 0.5, 1e308, 5e-324]),
    st.sampled_from(WORDS),
    st.text(max_size=4),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)
EXAMPLES = pytest.mark.parametrize("n_examples", [40, pytest.param(1000, marks=pytest.mark.slow)])


def examples(number: int) -> settings:
    """The same ones every time."""
    checks = list(HealthCheck)
    return settings(max_examples=number, deadline=None, derandomize=True, database=None, suppress_health_check=checks)


def all_names(body: Body) -> list[str]:
    """What a request may have: the body's own fields, their other names, and what is refused on purpose."""
    own = [name for part in (*body.groups, body) for field in part.fields for name in field.names]
    return sorted({*own, *aliases.KNOWN_FIELDS, *aliases.INPUTS, "parameters"})


def refusal(parser: Callable[[JsonBody], Any], body: JsonBody) -> str:
    """Why the parser refuses the body; "" if it takes it. Raises for any error that is none of a client."""
    refused = ""
    with suppress(*CLIENTS_ERRORS):
        try:
            if body.get(PRIORITY_FIELD) is not None:  # read for all routes
                parse_priority(body[PRIORITY_FIELD], PRIORITY_FIELD)
            parser(body)
        except EmbedError as error:
            refused = error.message
            raise
    return refused


def test_every_request_has_its_parser_here():
    groups = {group.name for body in BODIES.values() for group in body.groups}
    assert set(PARSERS) == set(BODIES) - groups


@EXAMPLES
@pytest.mark.parametrize("name", PARSERS)
def test_any_json_in_any_field_is_a_request_or_refused(name, n_examples):
    fields = all_names(BODIES[name])

    @examples(n_examples)
    @given(st.dictionaries(st.sampled_from(fields), VALUES, max_size=5))
    def run(body):
        refusal(PARSERS[name], body)

    run()


def matching(schema: Any) -> st.SearchStrategy[Any]:
    """Values that match a schema, but for its `not`, `contains` and `oneOf`."""
    if "$ref" in schema:
        return matching(SCHEMAS[schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema and "type" not in schema:
        return st.one_of(*map(matching, schema["anyOf"]))
    types = schema["type"]
    return st.one_of(*(of_type(kind, schema) for kind in ([types] if isinstance(types, str) else types)))


def of_type(kind: str, schema: Any) -> st.SearchStrategy[Any]:
    match kind:
        case "null":
            return st.none()
        case "boolean":
            return st.booleans()
        case "number":
            return st.sampled_from([-1, 0, 2, 0.5, 1e10])
        case "integer":
            low = max(schema.get("minimum", -3), -3)
            numbers = st.integers(low, min(schema.get("maximum", low + 9), low + 9))
            return numbers | numbers.map(float)
        case "string":
            return st.sampled_from(["a", "a text", "query", "5m", "0"])
        case "array":
            return st.lists(matching(schema["items"]) if "items" in schema else VALUES, max_size=3)
        case _:
            return object_of(schema)


def object_of(schema: Any) -> st.SearchStrategy[JsonBody]:
    """Objects with any of the properties, mostly right ones."""
    parts = [schema, *(SCHEMAS[part["$ref"].rpartition("/")[2]] for part in schema.get("allOf", []))]
    properties = {name: value for part in parts for name, value in part.get("properties", {}).items()}
    required = {name for part in parts for name in part.get("required", [])}
    values = {name: st.one_of(*[matching(value)] * 9, VALUES) for name, value in properties.items()}
    fixed = {name: value for name, value in values.items() if name in required}
    optional = {name: value for name, value in values.items() if name not in required}  # in order: same examples
    return st.fixed_dictionaries(fixed, optional=optional)


def is_integer(_checker: object, value: object) -> bool:
    whole = isinstance(value, float) and value.is_integer()
    return whole or (isinstance(value, int) and not isinstance(value, bool))


@functools.cache
def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({**SCHEMAS[name], "components": {"schemas": SCHEMAS}})


REFUSALS = (
    r'"truncate_prompt_tokens" and "max_tokens" contradict',
    r'"truncate" and "truncation_direction" contradict',
    r"ask for different prompts",
    r'"messages" and "input" are both the input',
    r'"dimensions" must be an integer of at least 1, found the number 0',  # it is right with `modality`
    r"\"prompt\" has [\d,]+ characters",
    r'"spans',
    r"input \d+ is an array of token ids",
    r"input \d+: \"spans",
    r"is a chunk without words",
    r"late_chunking\" joins texts",
    r"which makes the array one input",
    r"has no text in .*rank_fields",
    r"only represents numbers from -1 to 1",
    r"is not base64|base64 string|contains <__media__>|image|only http",
    r"has \d+ entries, the limit",
    r'"embd_normalize" and "normalize" contradict',
    r"has multimodal_data",
    r"send one query, or as many as documents",
    r'"pool_factor" makes multi-vectors smaller',
    r'"muvera" makes one vector of a multi-vector',
)
"""What a schema cannot say."""


@EXAMPLES
@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_what_its_schema_says(name, n_examples):
    strategy = object_of(SCHEMAS[name])

    @examples(n_examples)
    @given(strategy)
    def run(body):
        if body.get("input") is not None:
            body.pop("content", None)  # not read then
        faults = [error.message for error in validator(name).iter_errors(body)]
        why = refusal(PARSERS[name], body)
        if any(re.search(words, why) for words in REFUSALS):
            return
        assert bool(faults) == bool(why), (body, faults, why)

    run()
