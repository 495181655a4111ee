import pytest

from benchmarks.load import frame_request, run_load
from gguf_embed.errors import EngineFailure, Unavailable

from .fake_server import fake_server, ok

REQUESTS = [frame_request("/v1/embeddings", b"request %d" % i) for i in range(20)]


@pytest.mark.parametrize("n_clients", [1, 4, 50])
def test_every_reply_is_matched_to_its_request(n_clients):
    with fake_server(lambda _, body: ([ok(b"echo " + body)], False)) as port:
        result = run_load(port, REQUESTS, n_clients)
    assert result.replies == tuple(b"echo request %d" % i for i in range(20))
    assert len(result.latencies_s) == 20
    assert all(0 < latency <= result.wall_s for latency in result.latencies_s)
    assert result.n_reconnects == 0


def test_requests_are_sent_in_order():
    seen = []

    def answer(_, body):
        seen.append(body)
        return [ok(b"")], False

    with fake_server(answer) as port:
        run_load(port, REQUESTS, 1)
    assert seen == [b"request %d" % i for i in range(20)]


def test_a_reply_may_arrive_in_pieces():
    def answer(_, body):
        whole = ok(body * 50_000)
        return [whole[:10], whole[10:40], whole[40:]], False

    with fake_server(answer) as port:
        result = run_load(port, REQUESTS[:3], 2)
    assert result.replies[2] == b"request 2" * 50_000


def test_a_client_reconnects_when_the_server_closes_the_connection():
    with fake_server(lambda _, body: ([ok(body, close=True)], True)) as port:
        result = run_load(port, REQUESTS[:5], 1)
    assert result.replies[4] == b"request 4"
    assert result.n_reconnects == 4


def test_a_request_is_sent_again_when_an_idle_connection_turns_out_closed():
    with fake_server(lambda number, body: ([] if number == 1 else [ok(body)], number == 1)) as port:
        result = run_load(port, REQUESTS[:5], 1)
    assert result.replies[:5] == tuple(b"request %d" % i for i in range(5))
    assert result.n_reconnects == 1


@pytest.mark.parametrize(
    ("reply", "error", "message"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops", EngineFailure, "500 No.*oops"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", EngineFailure, "Content-Length"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf", Unavailable, "middle of a reply"),
        (b"", Unavailable, "closes every connection"),
    ],
)
def test_an_invalid_reply_stops_the_run_with_one_line(reply, error, message):
    with fake_server(lambda *_: ([reply], True)) as port, pytest.raises(error, match=message) as caught:
        run_load(port, REQUESTS[:3], 1)
    assert "\n" not in str(caught.value)


def test_a_missing_server_is_one_clear_line():
    with fake_server(lambda *_: ([], True)) as port:
        pass
    with pytest.raises(Unavailable, match=f"port {port}"):
        run_load(port, REQUESTS, 2)
