"""Keys, hosts, headers, sockets: what reaches the server before any JSON does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from surelock import LLM
from surelock.errors import ParameterError
from surelock.server.guard import QUEUED, host_name
from surelock.server.protocol import guarded_protocol
from surelock.server.routes import generating_routes, token_routes
from surelock.server.settings import ServerSettings
from tests.server.faulty_engine import FaultyEngine
from tests.server.running import Running, running
from tests.server.test_requests import envelope
from tests.waiting import WAIT_SECONDS, until

KEY = "correct-horse-battery"
PROBES = {"/livez", "/readyz", "/health"}
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def keyed(llm: LLM) -> Iterator[Running]:
    """A server with a key; its client sends none."""
    with running(llm, api_keys=(KEY, "another-key-of-ours")) as server:
        del server.client.headers["Authorization"]
        yield server


def raw(port: int, data: bytes) -> bytes:
    """What the server answers to bytes, until it closes or has answered once."""
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_SECONDS) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return answer(connection, has_body=not data.startswith(b"HEAD"))


def answer(connection: socket.socket, *, has_body: bool = True) -> bytes:
    received = b""
    with contextlib.suppress(OSError):
        while part := connection.recv(65536):
            received += part
            head, end, body = received.partition(b"\r\n\r\n")
            length = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            if end and length and (not has_body or len(body) >= int(length[0].split(b":")[1])):
                break
    return received


def request(path: str = "/version", *headers: str, method: str = "GET", host: str = "localhost") -> bytes:
    return "\r\n".join([f"{method} {path} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode("latin-1")


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1]) if answer else 0


def paths(server: Running) -> list[tuple[str, str]]:
    """Every route the document names, and some that it does not."""
    headers = {"Authorization": f"Bearer {KEY}"}
    document = server.client.get("/openapi.json", headers=headers).json()
    named = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    return [
        *named,
        ("GET", "/openapi.json"),
        ("GET", "/docs"),
        ("GET", "/nothing"),
        ("OPTIONS", "/v1/models"),
    ]


def test_case_24_every_route_but_the_probes_wants_a_key(keyed: Running) -> None:
    seen = set()
    for method, path in paths(keyed):
        got = keyed.client.request(method, path)
        seen.add(path)
        if path in PROBES:
            assert got.status_code == 200
        else:
            envelope(got, 401, "invalid_api_key")
            assert got.headers["www-authenticate"] == "Bearer"
    assert PROBES | {"/metrics", "/infill", "/v1/completions", "/tokenize", "/v1/models", "/openapi.json"} <= seen


def test_what_is_refused_before_it_is_routed_is_what_takes_a_place(keyed: Running) -> None:
    routes = [*generating_routes(keyed.service).routes, *token_routes(keyed.service).routes]
    assert {route.path for route in routes if isinstance(route, APIRoute)} == QUEUED


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        f"Bearer {KEY[:-1]}",
        f"Bearer {KEY}x",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY.upper()}",
        "Bearer k\xe9y",
        "Bearer " + "x" * 10_000,
    ],
)
def test_case_24_wrong_keys(keyed: Running, value: str) -> None:
    got = keyed.client.get("/v1/models", headers=[(b"Authorization", value.encode("latin-1"))])
    envelope(got, 401, "invalid_api_key")


def test_case_24_two_headers_are_none(keyed: Running) -> None:
    header = (b"Authorization", f"Bearer {KEY}".encode())
    envelope(keyed.client.get("/v1/models", headers=[header, header]), 401)


@pytest.mark.parametrize("value", [f"Bearer {KEY}", f"bearer {KEY}", "Bearer another-key-of-ours"])
def test_case_24_right_keys(keyed: Running, value: str) -> None:
    assert keyed.client.get("/v1/models", headers={"Authorization": value}).status_code == 200


def test_case_24_keys_are_compared_in_constant_time(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[bytes, bytes]] = []

    def compare(given: bytes, own: bytes) -> bool:
        compared.append((given, own))
        return given == own

    monkeypatch.setattr("hmac.compare_digest", compare)
    with running(llm, api_keys=(KEY, "another-key-of-ours")) as server:
        server.client.get("/v1/models")
    right, other = (sha256(key.encode()).digest() for key in (KEY, "another-key-of-ours"))
    assert compared == [(right, right), (right, other)]


@pytest.mark.parametrize(
    "path",
    [
        "//v1/models",
        "/v1%2fmodels",
        "/%76%31/models",
        "/livez/../v1/models",
        "/livez/..%2fv1/models",
        "/livez%00",
        "/livez/",
        "/readyz;a=b",
        "/%6civez",
        "@x/livez",
        "/v1/models?/livez",
        "/v1/models#/livez",
        "http://localhost/v1/models",
    ],
)
def test_case_25_odd_paths_open_nothing(keyed: Running, path: str) -> None:
    assert status(raw(keyed.port, request(path))) in (400, 401)


@pytest.mark.parametrize(
    "host", ["evil/?", "a/#", "localhost/livez?", "evil.example", "localhost:80:80", "", "127.0.0.1.evil.example"]
)
def test_case_25_and_26_odd_hosts_open_nothing(keyed: Running, host: str) -> None:
    for path in ("/v1/models", "/livez"):
        assert status(raw(keyed.port, request(path, f"Authorization: Bearer {KEY}", host=host))) in (400, 403)


@pytest.mark.parametrize("method", ["get", "FOO", "TRACE", "CONNECT", "PUT", "PATCH", "HEAD", "OPTIONS"])
def test_case_25_odd_methods_open_nothing(keyed: Running, method: str) -> None:
    assert status(raw(keyed.port, request("/v1/models", method=method))) in (400, 401)


def test_case_25_two_host_headers(shared: Running) -> None:
    assert status(raw(shared.port, request("/version", "Host: evil.example"))) in (400, 403)


def test_case_26_no_cors(shared: Running) -> None:
    headers = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    preflight = shared.client.options("/v1/completions", headers=headers)
    envelope(preflight, 405)
    got = shared.client.get("/v1/models", headers=headers)
    for each in (preflight, got):
        assert not [name for name in each.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (b"localhost:8000", "localhost"),
        (b"LOCALHOST", "localhost"),
        (b"127.0.0.1:1", "127.0.0.1"),
        (b"[::1]:80", "::1"),
        (b"a b", None),
        (b"a/b", None),
        (b"a:b", None),
        (b"", None),
        ("ł".encode(), None),
    ],
)
def test_host_names(header: bytes, name: str | None) -> None:
    assert host_name(header) == name


def test_case_26_other_names_may_be_allowed(llm: LLM) -> None:
    with running(llm, allowed_hosts=("models.example",)) as server:
        assert status(raw(server.port, request(host="models.example"))) == 200
        assert status(raw(server.port, request(host="localhost"))) == 200
        assert status(raw(server.port, request(host="evil.example"))) == 403


def test_case_27_large_headers(shared: Running) -> None:
    assert status(raw(shared.port, request("/version", f"X-A: {'a' * 5_000_000}"))) in (431, 0)
    assert status(raw(shared.port, request("/version", f"X-A: {'a' * 33_000}"))) == 431
    assert status(raw(shared.port, request("/version", *[f"X-{n}: a" for n in range(10_000)]))) in (431, 0)
    assert status(raw(shared.port, request("/version", *[f"X-{n}: a" for n in range(200)]))) == 431
    assert status(raw(shared.port, b"GET /" + b"a" * 5_000_000)) in (431, 0)
    for path in ("/version?" + "a" * 33_000, "/" + "a" * 33_000, "/%61" * 9_000):
        assert status(raw(shared.port, request(path))) == 431
    assert status(raw(shared.port, request("/version", method="A" * 33_000))) == 431
    assert shared.client.get("/version").status_code == 200


@pytest.mark.parametrize("path", ["/version", "/livez", "/metrics", "/v1/models/surelock-demo", "/", "/nothing"])
def test_head_is_get_without_the_body(shared: Running, path: str) -> None:
    got, head = shared.client.get(path), shared.client.head(path)
    assert head.status_code == got.status_code
    assert head.headers["content-type"] == got.headers["content-type"]
    assert head.content == b""
    assert path == "/metrics" or head.headers["content-length"] == str(len(got.content))
    # And nothing of one is left on the connection.
    assert shared.client.get("/version").status_code == 200


def test_head_of_what_has_no_get(shared: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "surelock.server")
    assert shared.client.head("/v1/completions").status_code == 405
    until(lambda: "HEAD /v1/completions 405" in caplog.text)


def test_case_27_bodies_that_lie(shared: Running) -> None:
    post = "/v1/completions"
    kind = "Content-Type: application/json"
    assert status(raw(shared.port, request(post, kind, "Content-Length: 99999999999", method="POST") + b"{}")) == 413
    assert status(raw(shared.port, request(post, kind, "Content-Length: -5", method="POST"))) == 400
    assert status(raw(shared.port, request(post, kind, "Content-Length: x", method="POST"))) == 400
    both = (
        request(post, kind, "Content-Length: 2", "Transfer-Encoding: chunked", method="POST") + b"2\r\n{}\r\n0\r\n\r\n"
    )
    assert status(raw(shared.port, both)) == 400
    bomb = request(post, kind, "Transfer-Encoding: chunked", method="POST") + b"100000\r\n" + b"x" * 0x100000 + b"\r\n"
    bomb += (b"100000\r\n" + b"x" * 0x100000 + b"\r\n") * 5
    assert status(raw(shared.port, bomb)) in (413, 0)
    packed = shared.post(post, content=b"\x1f\x8b", headers=JSON | {"content-encoding": "gzip"})
    envelope(packed, 415, "unsupported_encoding")
    assert status(raw(shared.port, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 tls?\r\n\r\n")) == 400
    assert shared.client.get("/version").status_code == 200


def test_case_27_pipelined_requests_are_answered_in_order(shared: Running) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=WAIT_SECONDS) as connection:
        connection.sendall(request("/version") + request("/v1/models") + request("/nothing", "Connection: close"))
        received = b""
        while part := connection.recv(65536):
            received += part
    assert [int(part[:3]) for part in received.split(b"HTTP/1.1 ")[1:]] == [200, 200, 404]


def test_case_27_slow_headers_and_bodies(llm: LLM) -> None:
    with running(llm, header_timeout=0.3, body_timeout=0.3) as server:
        for beginning in (b"", b"GET /version HT", b"GET /version HTTP/1.1\r\nHost: localhost\r\n"):
            assert status(raw(server.port, beginning)) == 408
        slow = request("/v1/completions", "Content-Type: application/json", "Content-Length: 100", method="POST")
        assert status(raw(server.port, slow + b'{"prompt"')) == 408
        # One byte at a time is no progress either.
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as drip:
            with contextlib.suppress(OSError):
                for _ in range(100):
                    drip.sendall(b"G")
                    time.sleep(0.02)
            assert status(answer(drip)) in (408, 0)
        # The machine may be too slow for this limit, too.
        until(lambda: server.client.get("/version").status_code == 200)
        until(lambda: len(server.server.server_state.connections) <= 1)


def test_case_27_a_kept_connection_is_timed_too(llm: LLM) -> None:
    engine, header_timeout = FaultyEngine(llm, held=True), 0.5
    with running(llm, lambda: engine, header_timeout=header_timeout) as server, ThreadPoolExecutor(1) as pool:
        with socket.create_connection(("127.0.0.1", server.port), timeout=WAIT_SECONDS) as connection:
            connection.sendall(request())
            assert status(answer(connection)) == 200
            connection.sendall(b"GET /version HTTP/1.1\r\n")
            assert status(answer(connection)) == 408
        # A request that takes longer than the headers may is not touched.
        slow = pool.submit(server.post, "/v1/completions", {"prompt": "a", "max_tokens": 2})
        until(lambda: server.service.engine.num_running + server.service.engine.num_waiting == 1)
        time.sleep(1.2 * header_timeout)
        engine.go.set()
        assert slow.result().status_code == 200


def test_case_27_too_many_connections(llm: LLM) -> None:
    with running(llm, max_connections=8) as server:
        idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(8)]
        until(lambda: len(server.server.server_state.connections) == 8)
        assert status(raw(server.port, b"")) == 503
        for connection in idle:
            connection.close()
        until(lambda: not server.server.server_state.connections)
        assert server.client.get("/version").status_code == 200


def test_case_12_a_reader_that_stops_is_dropped() -> None:
    sent, was_cut = 0, threading.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        gone = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not gone.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 65536
            await asyncio.sleep(0)
        was_cut.set()

    settings = ServerSettings(write_timeout=0.3)
    protocol = guarded_protocol(settings)
    config = uvicorn.Config(endless, port=0, http=protocol, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    with socket.create_connection(server.servers[0].sockets[0].getsockname()) as connection:
        connection.sendall(request("/"))
        assert was_cut.wait(WAIT_SECONDS)
        # What lies in the kernel's buffers, and not more.
        assert 0 < sent < 64 << 20
    server.should_exit = True
    thread.join(WAIT_SECONDS)


def test_case_28_nothing_of_a_client_is_raw_in_the_log(shared: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    nasty = "evil\\x1b[31m\u2028line"
    headers = {"X-Request-ID": "a\tb c" * 30, "User-Agent": "evil-agent", "Authorization": "Bearer evil-key"}
    body = {"prompt": nasty, "model": nasty, "max_tokens": 1}
    got = shared.client.post("/v1/completions", json=body, headers=headers)
    shared.client.get("/evil%0d%0aline?evil=1", headers=headers)
    shared.client.request("EVIL", "/v1/models")

    def written() -> list[str]:
        return [record.getMessage() for record in caplog.records if record.name.startswith("surelock")]

    # A line follows its answer.
    until(lambda: len(written()) == 3)
    lines = written()
    assert not [line for line in lines if "evil" in line.lower() or not line.isprintable()]
    assert got.headers["x-request-id"] != headers["X-Request-ID"]
    assert got.headers["x-request-id"].isalnum()


def test_case_28_a_sound_request_id_is_kept(shared: Running, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "surelock.server")
    got = shared.client.get("/version", headers={"X-Request-ID": "trace_1.2-c"})
    assert got.headers["x-request-id"] == "trace_1.2-c"
    until(lambda: "id=trace_1.2-c" in caplog.text)


def test_case_29_text_cannot_end_an_event(shared: Running) -> None:
    nasty = 'x"}\n\ndata: {"evil": true}\n\n\u2028\u0085'
    body: dict[str, Any] = {"prompt": nasty, "suffix": nasty, "max_tokens": 2, "stream": True, "diffusing": True}
    body["stream_options"] = {"surelock": "patch"}
    with shared.client.stream("POST", "/v1/completions", json=body) as got:
        data = got.read().decode()
    blocks = data.split("\n\n")
    assert blocks[-1] == ""
    assert all(block.startswith("data: ") and "\n" not in block for block in blocks[:-1])
    envelope(shared.post("/v1/completions", {"prompt": "a", 'x"}\n\n': 1}), 400, "unknown_parameter")


def test_case_30_metrics(llm: LLM) -> None:
    with running(llm) as server:
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 2})
        server.post("/v1/completions", {"prompt": "a", "max_tokens": 2, "stream": True})
        server.post("/v1/completions", {"max_tokens": 2})
        server.until_idle()
        text = server.client.get("/metrics").text
        assert 'surelock_requests_total{code="200"} 2.0' in text
        assert 'surelock_requests_total{code="400"} 1.0' in text
        assert server.metric("surelock_generation_tokens_total") == 4
        assert server.metric("surelock_denoise_steps_total") == 4
        assert server.metric("surelock_time_to_first_text_seconds_count") == 1
        assert server.metric("surelock_request_queue_time_seconds_count") == 2
        assert server.metric("surelock_e2e_request_latency_seconds_count") == 2
        for name in ("locked_token_fraction", "flops_saved_ratio", "tokens_per_forward"):
            assert server.metric(f"surelock_{name}_count") == 2
        assert "surelock_engine_heartbeat_timestamp_seconds 1." in text
        assert "surelock_build_info{" in text


def test_case_30_no_pages_that_load_scripts(shared: Running) -> None:
    for path in ("/docs", "/redoc"):
        assert shared.client.get(path).status_code == 404


@pytest.mark.parametrize(
    ("fields", "fragment"),
    [
        ({"host": "0.0.0.0"}, "--public"),
        ({"host": "192.168.1.5", "api_keys": (KEY,)}, "--public"),
        ({"host": "example.org"}, "--public"),
        ({"host": "0.0.0.0", "public": True}, "no key"),
        ({"public": True}, "no key"),
        ({"api_keys": ("short",)}, "8 to 512"),
        ({"api_keys": ("with a space",)}, "8 to 512"),
        ({"api_keys": ("schl\xfcssel-lang",)}, "8 to 512"),
        ({"max_waiting": 0}, "max_waiting"),
        ({"drain_timeout": float("nan")}, "drain_timeout"),
        ({"port": 70000}, "port"),
    ],
)
def test_settings_that_are_refused(fields: dict[str, Any], fragment: str) -> None:
    with pytest.raises(ParameterError, match=fragment):
        ServerSettings(**fields)


def test_settings_that_are_fine() -> None:
    assert ServerSettings(host="::1").is_loopback
    assert ServerSettings(host="0.0.0.0", public=True, api_keys=(KEY,)).host_names is None


def test_the_client_of_a_held_engine_can_close(llm: LLM) -> None:
    with running(llm, lambda: FaultyEngine(llm, held=True)) as server:
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/v1/completions", json={"prompt": "a"}, timeout=httpx.Timeout(WAIT_SECONDS, read=0.1))
        server.until_idle()


def test_a_client_that_goes_while_it_sends_is_no_mistake_of_ours(llm: LLM, caplog: pytest.LogCaptureFixture) -> None:
    with running(llm) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            head = request("/v1/completions", "Content-Type: application/json", "Content-Length: 100", method="POST")
            connection.sendall(head + b'{"prompt"')
            until(lambda: len(server.server.server_state.tasks) == 1)
        until(lambda: server.metric("surelock_requests_total", code="499") == 1)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]
