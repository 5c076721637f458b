"""A server that can face the internet: slow and strange clients, TLS, browsers, names, limits, metrics."""

import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatledger.serving.listener import HEAD_BYTES_MAX
from support import certificates
from support.api import TIMEOUT_S, create, fresh, problem, raw
from support.certificates import Pair
from support.server import Server, ServerDidNotStart

ORIGIN = "https://chat.example"
LOCAL = b"Host: localhost\r\n"
POST = b"POST /v1/sessions HTTP/1.1\r\n" + LOCAL + b"Content-Type: application/json\r\n"
SHORT_MS = "300"


def until_closed(connection: socket.socket) -> bytes:
    """What the server says before it closes. That it does is the test: otherwise the time-out fails it."""
    try:
        return b"".join(iter(lambda: connection.recv(65536), b""))
    except ConnectionResetError:
        return b""


def connect(server: Server) -> socket.socket:
    """A connection that has said nothing yet."""
    return socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)


def metric(text: str, name: str, **labels: str) -> float:
    """One number of /metrics."""
    (found,) = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    return found


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that waits for nobody."""
    folder = tmp_path_factory.mktemp("hasty")
    env = {"CHATLEDGER_HEADER_TIMEOUT_MS": SHORT_MS, "CHATLEDGER_BODY_TIMEOUT_MS": SHORT_MS}
    with Server(folder / "ledger.db", cwd=folder, env=env) as running:
        yield running


@pytest.mark.parametrize("said", [b"", b"GET /health/live HTTP/1.1\r\n", b"GET /health/live HTTP/1.1\r\n" + LOCAL])
def test_a_head_that_does_not_come_to_its_end_closes_the_connection(hasty: Server, said: bytes) -> None:
    """Without an answer: nothing was asked."""
    with connect(hasty) as connection:
        connection.sendall(said)
        assert until_closed(connection) == b""


def test_a_connection_that_falls_silent_behind_an_answer_is_closed(hasty: Server) -> None:
    """It had its answer."""
    with connect(hasty) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + LOCAL + b"\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("head", [b"Content-Length: 100\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
def test_a_body_that_does_not_come_is_refused(hasty: Server, head: bytes) -> None:
    """408, said to be the end of the connection, and it is."""
    with connect(hasty) as connection:
        connection.sendall(POST + head)
        answer = until_closed(connection)
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close\r\n" in answer
    assert b"urn:chatledger:problem:request-timeout" in answer


def test_a_body_that_drips_is_refused_by_its_whole_time(hasty: Server) -> None:
    """Bytes that come before a shorter wait is over do not give it more."""
    with connect(hasty) as connection:
        connection.sendall(POST + b"Content-Length: 100000\r\n\r\n")
        connection.settimeout(0.05)
        answer = b""
        for _ in range(100_000):
            try:
                connection.sendall(b" ")
                answer = connection.recv(65536)
            except TimeoutError:
                continue
            break
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_stalled_bodies_leave_nothing_behind(hasty: Server) -> None:
    """No task, no bytes; and the next request is served."""
    connections = [connect(hasty) for _ in range(50)]
    for connection in connections:
        connection.sendall(POST + b"Content-Length: 50000\r\n\r\n" + b" " * 40000)
    assert all(until_closed(connection).startswith(b"HTTP/1.1 408 ") for connection in connections)
    for connection in connections:
        connection.close()
    with hasty.client() as client:
        text = client.get("/metrics").text
        assert metric(text, "chatledger_bodies_reading") == 0
        assert metric(text, "chatledger_bodies_bytes") == 0
        assert metric(text, "chatledger_problems_total", problem="request-timeout") >= 50
        assert client.post("/v1/sessions", json={}).status_code == 201


def test_a_body_that_nobody_reads_does_not_keep_the_connection(hasty: Server) -> None:
    """The answer comes, and then the end."""
    with connect(hasty) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + LOCAL + b"Content-Length: 100\r\n\r\n")
        assert until_closed(connection).startswith(b"HTTP/1.1 200 ")


def test_many_silent_connections_keep_nobody_out(shared_server: Server) -> None:
    """With granian's own limit of 128 connections they would."""
    silent = [connect(shared_server) for _ in range(300)]
    with shared_server.client() as client:
        assert client.get("/health/live").status_code == 200
    for connection in silent:
        connection.close()


SMUGGLED = b"GET /health/live HTTP/1.1\r\n" + LOCAL + b"X-Request-Id: smuggled\r\n\r\n"
STRANGE = {
    "length and chunks": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks and length": POST + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 60\r\n\r\n{}" + SMUGGLED,
    "a length with a sign": POST + b"Content-Length: +2\r\n\r\n{}" + SMUGGLED,
    "a negative length": POST + b"Content-Length: -2\r\n\r\n{}" + SMUGGLED,
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}" + SMUGGLED,
    "a space before the colon": POST + b"Content-Length : 2\r\n\r\n{}" + SMUGGLED,
    "a folded header": POST + b"X-A: b\r\n c\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "CR in a value": POST + b"X-A: b\rContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "NUL in a value": POST + b"X-A: b\0c\r\nContent-Length: 2\r\n\r\n{}" + SMUGGLED,
    "an unknown coding": POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks not last": POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "chunks by a hidden name": POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size of no digits": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size with 0x": POST + b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a chunk size of 68 bits": POST + b"Transfer-Encoding: chunked\r\n\r\n%b\r\n{}\r\n" % (b"f" * 17) + SMUGGLED,
    "a chunk longer than its size": POST + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "LF in a chunk's extension": POST + b"Transfer-Encoding: chunked\r\n\r\n2;a\nb\r\n{}\r\n0\r\n\r\n" + SMUGGLED,
    "a tab in the target": b"GET /health\t/live HTTP/1.1\r\n" + LOCAL + b"\r\n" + SMUGGLED,
    "HTTP/2 by its preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED,
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
def test_where_one_request_ends_is_never_in_doubt(hasty: Server, said: bytes) -> None:
    """A proxy in front may see two requests where we see one: so there is at most one answer, and then the end."""
    with connect(hasty) as connection:
        connection.sendall(said)
        answer = until_closed(connection)
    assert answer.count(b"HTTP/1.1 ") <= 1
    assert b"smuggled" not in answer
    assert b" 500 " not in answer.partition(b"\r\n")[0]


def test_the_same_length_twice_is_refused(hasty: Server) -> None:
    """What takes it for one passes it on as two."""
    answer = raw(hasty, POST + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}")
    assert b" 201 " not in answer.partition(b"\r\n")[0]
    assert b" 500 " not in answer.partition(b"\r\n")[0]


@pytest.mark.parametrize(
    "fields",
    [
        b"".join(b"X-%d: 1\r\n" % number for number in range(10_000)),
        b"X-A: " + b"a" * (4 * HEAD_BYTES_MAX) + b"\r\n",
    ],
    ids=["10,000 headers", "a long one"],
)
def test_heads_have_limits(shared_server: Server, fields: bytes) -> None:
    """431, and the end of the connection."""
    with connect(shared_server) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + LOCAL + fields + b"\r\n")
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 431 ")


def test_a_packed_body_is_refused(shared_server: Server) -> None:
    """There is no decompression, and so no bomb."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    with shared_server.client() as client:
        problem(client.post("/v1/sessions", content=b"\x1f\x8b", headers=headers), 415)


# TLS.


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """A certificate that no authority has signed."""
    return certificates.make(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory, pair: Pair) -> Iterator[Server]:
    """A server with TLS."""
    folder = tmp_path_factory.mktemp("safe")
    with Server(folder / "ledger.db", cwd=folder, env=pair.settings) as running:
        yield running


def test_tls_is_spoken(safe: Server, pair: Pair) -> None:
    """With the certificate that was given; and browsers are told to keep to it."""
    trusted = ssl.create_default_context(cafile=str(pair.certificate))
    with httpx.Client(base_url=safe.url, verify=trusted, trust_env=False) as client:
        answer = client.post("/v1/sessions", json={})
    assert answer.status_code == 201
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_tls_1_1_is_not_spoken(safe: Server) -> None:
    """Neither is anything older, nor plain HTTP."""
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with connect(safe) as connection, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(connection)
    with connect(safe) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\n" + LOCAL + b"\r\n")
        assert b"200" not in until_closed(connection)


def test_a_command_beside_it_knows_its_server(safe: Server) -> None:
    """By the certificate itself; the command needs no setting for that."""
    command = [sys.executable, "-m", "chatledger", "replay", "--database", safe.database]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    assert f"the server at {safe.url} has rebuilt its views" in done.stdout


def test_a_command_does_not_talk_to_another_server(safe: Server, tmp_path: Path) -> None:
    """Whoever has taken the port gets no credential."""
    lock = Path(safe.database + ".lock")
    noted = lock.read_bytes()
    other = msgspec.json.decode(noted) | {"certificate": certificates.make(tmp_path).certificate.read_text()}
    command = [sys.executable, "-m", "chatledger", "replay", "--database", safe.database]
    try:
        lock.write_bytes(msgspec.json.encode(other))
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    finally:
        lock.write_bytes(noted)
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr


def refusal(tmp_path: Path, env: dict[str, str]) -> str:
    """Why a server does not start."""
    with pytest.raises(ServerDidNotStart) as refused, Server(tmp_path / "ledger.db", cwd=tmp_path, env=env):
        pass
    assert not (tmp_path / "ledger.db").exists()
    return str(refused.value)


def test_a_certificate_needs_its_key(tmp_path: Path, pair: Pair) -> None:
    """One without the other, another one's, one behind a password, none at all: the start is refused."""
    certificate, key = pair.settings
    both = "CHATLEDGER_TLS_CERTIFICATE and CHATLEDGER_TLS_KEY are set both or neither."
    assert both in refusal(tmp_path, {certificate: str(pair.certificate)})
    assert both in refusal(tmp_path, {key: str(pair.key)})
    other = certificates.make(tmp_path, "other.example")
    assert "cannot be used" in refusal(tmp_path, {certificate: str(pair.certificate), key: str(other.key)})
    locked = certificates.make(tmp_path, "locked.example", password=b"secret")
    assert "cannot be used" in refusal(tmp_path, locked.settings)
    gone = Pair(tmp_path / "gone.pem", tmp_path / "gone.key")
    assert "No such file" in refusal(tmp_path, gone.settings)


# Browsers.


@pytest.fixture(scope="module")
def shared_with_pages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that pages of one origin may call."""
    folder = tmp_path_factory.mktemp("cors")
    with Server(folder / "ledger.db", cwd=folder, env={"CHATLEDGER_CORS_ORIGINS": ORIGIN}) as running:
        yield running


def preflight(client: httpx.Client, origin: str, method: str = "POST") -> httpx.Response:
    """What a browser asks first."""
    asked = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": "authorization,content-type"}
    return client.options("/v1/sessions", headers={"Origin": origin, **asked})


def test_a_page_of_an_allowed_origin_may_call(shared_with_pages: Server) -> None:
    """It is told so beforehand, and may read the answer and the headers that it needs."""
    with shared_with_pages.client() as client:
        before = preflight(client, ORIGIN)
        assert before.status_code == 204
        assert before.headers["access-control-allow-origin"] == ORIGIN
        assert "POST" in before.headers["access-control-allow-methods"]
        assert "authorization" in before.headers["access-control-allow-headers"].lower()
        answer = client.post("/v1/sessions", json={}, headers={"Origin": ORIGIN})
        assert answer.status_code == 201
        assert answer.headers["access-control-allow-origin"] == ORIGIN
        assert answer.headers["vary"] == "Origin"
        assert "access-control-allow-credentials" not in answer.headers
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"etag", "location", "x-request-id", "idempotency-replayed", "retry-after", "ratelimit-reset"} <= {
            *exposed
        }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/v1/sessions/none", 404), ("GET", "/none", 404), ("PUT", "/v1/sessions", 405), ("POST", "/v1/x", 404)],
)
def test_a_page_may_read_problems(shared_with_pages: Server, method: str, path: str, status: int) -> None:
    """Otherwise it would only know that something failed."""
    with shared_with_pages.client() as client:
        answer = client.request(method, path, headers={"Origin": ORIGIN})
    problem(answer, status)
    assert answer.headers["access-control-allow-origin"] == ORIGIN


@pytest.mark.parametrize("origin", ["https://evil.example", "https://chat.example.evil.example", "null", "*"])
def test_a_page_of_another_origin_may_not(shared_with_pages: Server, origin: str) -> None:
    """Neither beforehand nor afterwards; and while there are no keys its request does nothing."""
    with shared_with_pages.client() as client:
        for answer in (
            preflight(client, origin),
            client.post("/v1/sessions", json={"id": "forged"}, headers={"Origin": origin}),
        ):
            assert answer.status_code == 403
            assert "access-control-allow-origin" not in answer.headers
        assert client.get("/v1/sessions/forged").status_code == 404


def test_no_origin_is_allowed_by_default(shared_server: Server) -> None:
    """OPTIONS says as ever what a path takes."""
    with shared_server.client() as client:
        allowed = preflight(client, shared_server.url).headers["allow"]
        assert allowed == "GET, HEAD, OPTIONS, POST"
        assert "access-control-allow-origin" not in client.get("/health/live").headers


def test_an_origin_in_the_settings_has_to_be_one(tmp_path: Path) -> None:
    """The asterisk is none."""
    assert "CHATLEDGER_CORS_ORIGINS names '*'" in refusal(tmp_path, {"CHATLEDGER_CORS_ORIGINS": "*"})


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
    ],
    ids=str,
)
def test_while_there_are_no_keys_pages_reach_nothing(shared_server: Server, headers: dict[str, str]) -> None:
    """By a name of theirs that points here, or from their own: they are refused whatever they ask, health too."""
    name = fresh("s")
    with shared_server.client() as client:
        problem(client.post("/v1/sessions", json={"id": name}, headers=headers), 403, "forbidden")
        problem(client.get("/health/live", headers=headers), 403, "forbidden")
        assert client.get(f"/v1/sessions/{name}").status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "chat.localhost", "[::1]"])
def test_the_page_of_the_service_itself_may_call(shared_server: Server, host: str) -> None:
    """Under each name of this machine."""
    place = f"{host}:{shared_server.port}"
    with shared_server.client() as client:
        answer = client.post("/v1/sessions", json={}, headers={"Host": place, "Origin": f"http://{place}"})
    assert answer.status_code == 201


@pytest.mark.parametrize("path", ["/health/live", "/v1/sessions", "/v1/sessions/none", "/none", "/metrics"])
def test_every_answer_is_safe_to_meet_in_a_browser(shared_server: Server, path: str) -> None:
    """Nothing is sniffed, run, framed, embedded, kept or passed on."""
    with shared_server.client() as client:
        headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "strict-transport-security" not in headers


def test_a_page_has_a_policy_of_its_own(shared_server: Server) -> None:
    """One, not two."""
    with shared_server.client() as client:
        assert client.get("/schema").headers.get_list("content-security-policy")[0].startswith("default-src 'self'")
        assert len(client.get("/schema").headers.get_list("content-security-policy")) == 1


# Limits and metrics.


def test_who_sends_too_much_is_told_when_to_come_again(tmp_path: Path) -> None:
    """429 with the limit in its headers; health is not limited."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env={"CHATLEDGER_KEY_REQUESTS_PER_S": "1"}) as server:
        client = server.client()
        answers = [client.get("/v1/sessions", headers={"X-Tenant-Id": fresh("t")}) for _ in range(20)]
        refused = [answer for answer in answers if answer.status_code != 200]
        assert refused != []
        problem(refused[-1], 429, "rate-limited")
        assert refused[-1].headers["retry-after"] == refused[-1].headers["ratelimit-reset"] == "1"
        assert (refused[-1].headers["ratelimit-limit"], refused[-1].headers["ratelimit-remaining"]) == ("5", "0")
        assert (answers[0].headers["ratelimit-limit"], answers[0].headers["ratelimit-remaining"]) == ("5", "4")
        assert client.get("/health/live").status_code == 200
        client.close()


def test_bytes_without_a_length_count_too(tmp_path: Path) -> None:
    """Chunks are charged once they are read."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env={"CHATLEDGER_TENANT_BYTES_PER_DAY": "50"}) as server:
        client = server.client()
        body = b'{"title": "%s"}' % (b"x" * 60)
        headers = {"Content-Type": "application/json"}
        assert client.post("/v1/sessions", content=iter([body]), headers=headers).status_code == 201
        answer = client.post("/v1/sessions", content=b"{}", headers=headers)
        problem(answer, 429, "rate-limited")
        assert int(answer.headers["retry-after"]) > 1000
        client.close()


def test_metrics_can_have_a_port_of_their_own(tmp_path: Path) -> None:
    """Which ends with the server; and one that is taken keeps it from starting."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    env = {"CHATLEDGER_METRICS_PORT": str(port)}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as server:
        with server.client() as client:
            create(client)
            assert client.get("/v1/sessions/none").status_code == 404
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert metric(text, "chatledger_events_total") == 1
        assert metric(text, "chatledger_group_commands_count") == 1
        assert metric(text, "chatledger_group_commands_sum") == 1
        assert metric(text, "chatledger_commit_seconds_count") == 1
        assert metric(text, "chatledger_queue_wait_seconds_count") == 1
        assert metric(text, "chatledger_projection_lag_events") == 0
        assert metric(text, "chatledger_problems_total", problem="not-found") == 1
        other = tmp_path / "other"
        other.mkdir()
        with pytest.raises(ServerDidNotStart, match=f"Port {port} of 127.0.0.1 is in use"):
            Server(other / "ledger.db", cwd=other, env=env).start()
        assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
