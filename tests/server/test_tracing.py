"""OpenTelemetry: one span for each POST, named as the conventions say, with the stages below it; nothing without it."""

from __future__ import annotations

import asyncio
import gzip
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gguf_embed.cli.serve import wants_tracing
from gguf_embed.errors import ConfigError, Overloaded
from tests.server.fake_service import FakeService, failing, serving

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="OpenTelemetry is not installed")

from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter  # noqa: E402
from opentelemetry.trace import SpanKind, StatusCode  # noqa: E402

from gguf_embed.server.tracing import Tracing, open_tracing  # noqa: E402

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = {"traceparent": f"00-{TRACE}-b7ad6b7169203331-01"}


def spans_of(body: object, path: str = "/v1/embeddings", service: FakeService | None = None, **headers: str):
    """The finished spans of one request, by name, and its reply."""
    memory = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))

    async def scenario():
        async with serving(service, tracing=Tracing(provider)) as running:
            return await running.post(path, body, headers=headers)

    reply = asyncio.run(scenario())
    return {span.name: span for span in memory.get_finished_spans()}, reply


def test_a_request_is_a_span_with_its_model_and_usage():
    spans, reply = spans_of({"input": ["a", "b"], "model": "tiny"})
    assert reply.status == 200
    span = spans["embeddings tiny"]
    found = dict(span.attributes)
    assert found["gen_ai.operation.name"] == "embeddings"
    assert found["gen_ai.request.model"] == "tiny"
    assert found["gen_ai.response.model"] == reply.json["model"]
    assert found["gen_ai.usage.input_tokens"] == reply.json["usage"]["prompt_tokens"]
    assert found["gen_ai.embeddings.dimension.count"] == len(reply.json["data"][0]["embedding"])
    assert found["gen_ai.provider.name"] == "gguf-embed"
    assert found["http.route"] == "/v1/embeddings"
    assert found["http.response.status_code"] == 200
    assert found["gguf_embed.request_id"] == reply.headers["X-Request-Id"]
    assert "error.type" not in found
    assert span.kind is SpanKind.SERVER
    assert span.status.status_code is StatusCode.UNSET


def test_the_stages_lie_below_the_request_one_after_another():
    spans, _ = spans_of({"input": "a"})
    request = spans.pop("embeddings")
    assert list(spans) == ["load", "tokenize", "queue", "compute"]  # the fake service has loaded it
    assert all(stage.parent.span_id == request.context.span_id for stage in spans.values())
    moments = [moment for stage in spans.values() for moment in (stage.start_time, stage.end_time)]
    assert moments == sorted(moments)
    assert request.start_time <= moments[0]
    assert moments[-1] <= request.end_time


def test_a_clients_trace_is_continued():
    spans, _ = spans_of({"input": "a"}, **PARENT)
    assert f"{spans['embeddings'].context.trace_id:032x}" == TRACE
    assert f"{spans['embeddings'].parent.span_id:016x}" == "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embedding", {"content": "a"}),
        ("/api/embed", {"model": "tiny", "input": "a"}),
        ("/api/embeddings", {"model": "tiny", "prompt": "a"}),
        ("/embed", {"inputs": ["a"]}),
    ],
)
def test_every_dialect_is_traced(path, body):
    spans, reply = spans_of(body, path)
    assert reply.status == 200
    (request,) = [span for span in spans.values() if span.kind is SpanKind.SERVER]
    assert request.attributes["http.route"] == path
    assert request.attributes["gen_ai.operation.name"] == "embeddings"


@pytest.mark.parametrize(
    ("service", "body", "status", "code"),
    [
        (None, {"input": 5}, 400, StatusCode.UNSET),
        (failing(Overloaded("full")), {"input": "a"}, 429, StatusCode.UNSET),
        (failing(RuntimeError("bug")), {"input": "a"}, 500, StatusCode.ERROR),
    ],
)
def test_an_error_is_named_and_a_servers_fault_is_the_spans(service, body, status, code):
    spans, reply = spans_of(body, service=service)
    assert reply.status == status
    (span,) = spans.values()
    assert span.attributes["error.type"] == str(status)
    assert span.status.status_code is code


def test_probes_are_not_traced():
    memory = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))

    async def scenario():
        async with serving(tracing=Tracing(provider)) as running:
            for path in ("/health", "/metrics", "/v1/models"):
                assert (await running.request("GET", path)).status == 200

    asyncio.run(scenario())
    assert memory.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_SDK_DISABLED": "true"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_TRACES_EXPORTER": "none"}, False),
    ],
)
def test_the_environment_switches_it_on(environment, wanted):
    assert wants_tracing(environment) is wanted


def test_an_unknown_protocol_is_named():
    with pytest.raises(
        ConfigError, match="OTEL_EXPORTER_OTLP_PROTOCOL 'x' is not supported: use http/protobuf or grpc"
    ):
        open_tracing({"OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, "1")


def test_a_server_without_it_imports_nothing_of_it():
    program = "import sys, gguf_embed.server.app, gguf_embed.cli.serve; print('opentelemetry' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert found.stdout.strip() == "False"


def test_a_real_server_sends_its_spans_to_a_collector(launch, models):
    grpc = pytest.importorskip("grpc")
    service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pb2_grpc = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    received = []

    class Collector(pb2_grpc.TraceServiceServicer):
        def Export(self, request, context):  # noqa: N802  # gRPC's name
            received.append(request)
            return service_pb2.ExportTraceServiceResponse()

    collector = grpc.server(futures.ThreadPoolExecutor(2))
    pb2_grpc.add_TraceServiceServicer_to_server(Collector(), collector)
    port = collector.add_insecure_port("127.0.0.1:0")
    collector.start()
    try:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
        server = launch("-m", models / "encoder.gguf", **environment)
        server.embed("hello", model="encoder")
        code, printed = server.end(15)
    finally:
        collector.stop(None)
    assert code == 0, printed
    check_sent(received)


def check_sent(received):
    """The collector's requests have the spans of one text, and the server's name."""
    spans = [
        span for sent in received for one in sent.resource_spans for scope in one.scope_spans for span in scope.spans
    ]
    assert {"embeddings encoder", "tokenize", "queue", "compute"} <= {span.name for span in spans}
    resource = {entry.key: entry.value.string_value for entry in received[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "gguf-embed"


@contextmanager
def http_collector(sent_to: list[tuple[str, str, bytes]]) -> Iterator[str]:
    """The address of a server that notes path, content type and body of each POST, as they came."""

    class Collector(BaseHTTPRequestHandler):
        def do_POST(self):  # the standard library's name
            body = self.rfile.read(int(self.headers["Content-Length"]))
            body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
            sent_to.append((self.path, self.headers["Content-Type"], body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format, *arguments):
            """Prints nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Collector) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("protocol", [{"OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}, {}])
@pytest.mark.parametrize("compression", [{}, {"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip"}])
def test_a_real_server_sends_its_spans_over_http(launch, models, protocol, compression):
    service_pb2 = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2")
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    sent_to: list[tuple[str, str, bytes]] = []
    with http_collector(sent_to) as address:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": address, **protocol, **compression}
        server = launch("-m", models / "encoder.gguf", **environment)
        server.embed("hello", model="encoder")
        code, printed = server.end(15)
    assert code == 0, printed
    assert {(path, kind) for path, kind, _ in sent_to} == {("/v1/traces", "application/x-protobuf")}
    check_sent([service_pb2.ExportTraceServiceRequest.FromString(body) for _, _, body in sent_to])


def test_a_collector_that_is_not_there_costs_the_end_a_few_seconds_only(launch, models):
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc.trace_exporter")
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    server = launch("-m", models / "encoder.gguf", **environment)
    assert server.embed("hello").shape == (1, 32)
    began_s = time.monotonic()
    code, _ = server.end(15)
    assert code == 0
    assert time.monotonic() - began_s < 20
