"""OpenTelemetry's traces, with the extra gguf-embed[otel]: a span for each POST, below it one for each stage.

The names are those of OpenTelemetry's conventions for generative AI and for HTTP servers. Without the packages or
without an endpoint in the environment, nothing of this is imported, and requests do not pass through it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

from aiohttp import web
from aiohttp.typedefs import Handler as AiohttpHandler
from opentelemetry import propagate, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import Span, SpanKind, StatusCode

from gguf_embed.errors import ConfigError
from gguf_embed.server.context import ServerContext
from gguf_embed.types import EmbedRequest, EmbedResult, ModelCheck, RerankRequest, RerankResult, Timings

PROVIDER = "gguf-embed"
FLUSH_MS = 3_000
"""How long the end of the server waits for a collector."""

_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TracedContext(ServerContext):
    """A context that names in the current span what the model did, and adds a span for each stage."""

    tracer: trace.Tracer

    async def embed(self, request: EmbedRequest, check: ModelCheck | None = None) -> EmbedResult:
        began_ns = time.time_ns()
        _note_request("embeddings", request.model)
        result = await ServerContext.embed(self, request, check)
        _note_result(self.tracer, result, result.timings, began_ns)
        n_dims = request.dimensions or result.model.n_embd
        trace.get_current_span().set_attribute("gen_ai.embeddings.dimension.count", n_dims)
        return result

    async def rerank(self, request: RerankRequest) -> RerankResult:
        began_ns = time.time_ns()
        _note_request("rerank", request.model)
        result = await ServerContext.rerank(self, request)
        _note_result(self.tracer, result, result.timings, began_ns)
        return result


class Tracing:
    """The spans of one server."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self.tracer = provider.get_tracer("gguf_embed")

    @web.middleware
    async def middleware(self, request: web.Request, handler: AiohttpHandler) -> web.StreamResponse:
        """Put one POST into a span, below that of the client if its headers name one."""
        if request.method != "POST":
            return await handler(request)
        resource = request.match_info.route.resource
        route = resource.canonical if resource is not None else ""
        attributes = {"http.request.method": request.method, "url.path": request.path, "url.scheme": request.scheme}
        if route:
            attributes["http.route"] = route
        with self.tracer.start_as_current_span(
            f"POST {route}".rstrip(), propagate.extract(request.headers), SpanKind.SERVER, attributes
        ) as span:
            response = await handler(request)
            _note_response(span, response)
            return response

    def context(self, plain: ServerContext) -> TracedContext:
        """The server's context, traced."""
        shared = {one.name: getattr(plain, one.name) for one in fields(ServerContext)}
        return TracedContext(**shared, tracer=self.tracer)

    def close(self) -> None:
        """Send what is left. Blocks for up to `FLUSH_MS`."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


def _note_response(span: Span, response: web.StreamResponse) -> None:
    span.set_attribute("http.response.status_code", response.status)
    if request_id := response.headers.get("X-Request-Id"):
        span.set_attribute("gguf_embed.request_id", request_id)
    if response.status >= 400:
        span.set_attribute("error.type", str(response.status))
    if response.status >= 500:
        span.set_status(StatusCode.ERROR)


def _note_request(operation: str, model: str | None) -> None:
    span = trace.get_current_span()
    span.update_name(f"{operation} {model}" if model else operation)
    span.set_attributes({"gen_ai.operation.name": operation, "gen_ai.provider.name": PROVIDER})
    if model:
        span.set_attribute("gen_ai.request.model", model)


def _note_result(tracer: trace.Tracer, result: EmbedResult | RerankResult, timings: Timings, began_ns: int) -> None:
    """The model and its usage, and the stages one after another. Stages of several batches overlap in truth."""
    span = trace.get_current_span()
    span.set_attributes(
        {"gen_ai.response.model": result.model.name, "gen_ai.usage.input_tokens": result.usage.prompt_tokens}
    )
    stages = {
        "load": timings.load_s,
        "tokenize": timings.tokenize_s,
        "queue": timings.queue_s,
        "compute": timings.compute_s,
    }
    start_ns, now_ns = began_ns, time.time_ns()
    for name, seconds in stages.items():
        if name == "load" and not seconds:
            continue
        end_ns = min(start_ns + int(seconds * 1e9), now_ns)
        tracer.start_span(name, start_time=start_ns).end(end_ns)
        start_ns = end_ns


def open_tracing(environ: Mapping[str, str], version: str) -> Tracing:
    """Traces to the collector that the environment names. Raises `ConfigError` without an exporter for it."""
    resource = {"service.version": version}
    if "OTEL_SERVICE_NAME" not in environ and "service.name=" not in environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        resource["service.name"] = PROVIDER
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(BatchSpanProcessor(_exporter(environ)))
    return Tracing(provider)


def _exporter(environ: Mapping[str, str]) -> SpanExporter:
    names = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
    protocol = next((environ[name] for name in names if environ.get(name)), "http/protobuf")
    if protocol not in _EXPORTERS:
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL {protocol!r} is not supported: use {' or '.join(_EXPORTERS)}")
    try:
        make: Callable[[], SpanExporter] = importlib.import_module(_EXPORTERS[protocol]).OTLPSpanExporter
    except ImportError as exc:
        package = f"opentelemetry-exporter-otlp-proto-{protocol.partition('/')[0]}"
        raise ConfigError(f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}: install {package} for it") from exc
    return make()
