"""A request that is refused before its body was read is answered all the same, also to a client that sends all first.

Such clients (Python's http.client and urllib, many others) look for an answer only behind the last byte. If the service
closed the connection with bytes unread, the client's system would throw the answer away (RFC 9112 section 9.6).
"""

import http.client
import json
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chatledger.writing.byte_budget import BODY_TIMES
from support.api import TIMEOUT_S
from support.command import succeed
from support.server import Server

MIB = 1024 * 1024
LONG = b" " * (18 * MIB)
"""More than a body may have, and more than all buffers between the two hold."""
JSON = {"Content-Type": "application/json"}
TIMES = 4


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[Server]:
    """A server with little room for bodies."""
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env={"CHATLEDGER_QUEUE_BYTES_MAX": str(3 * MIB)}) as running:
        yield running


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """A server that needs credentials, and one that allows only reading."""
    folder = tmp_path_factory.mktemp("guarded")
    database = folder / "ledger.db"
    options = ("--tenant", "t", "--scopes", "read", "--database", database)
    key = succeed("key", "create", *options, cwd=folder).splitlines()[-1]
    with Server(database, cwd=folder) as running:
        yield running, key


def ask(
    server: Server, method: str, path: str, *, times: int = TIMES, body: Any = LONG, **headers: str
) -> tuple[int, dict[str, Any]]:
    """Send a request so many times, on one connection; the status and the document of the answers, which are alike."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=TIMEOUT_S)
    found = set()
    for _ in range(times):
        fields = JSON | {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, body=body, headers=fields)
        answer = connection.getresponse()
        document = json.loads(answer.read())
        found.add((answer.status, json.dumps({**document, "request_id": ""})))
    connection.close()
    ((status, text),) = found
    return status, json.loads(text)


def test_a_body_beyond_the_limit_is_told_what_the_limit_is(shared_server: Server) -> None:
    """And the connection goes on."""
    status, document = ask(shared_server, "POST", "/v1/sessions")
    assert (status, document["type"], document["limit_bytes"]) == (413, "urn:chatledger:problem:too-large", 16 * MIB)


def test_a_body_whose_length_is_not_declared_is_told_too(shared_server: Server) -> None:
    """It is refused in the middle."""
    for _ in range(TIMES):
        status, document = ask(shared_server, "POST", "/v1/sessions", times=1, body=iter([LONG[:MIB]] * 18))
        assert (status, document["limit_bytes"]) == (413, 16 * MIB)


def test_urllib_is_told(shared_server: Server) -> None:
    """With one connection for each request."""
    for _ in range(TIMES):
        request = urllib.request.Request(f"{shared_server.url}/v1/sessions", data=LONG, headers=JSON)  # noqa: S310
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
        assert refused.value.code == 413
        refused.value.close()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("PATCH", "/v1/sessions/s", {}, 413),
        ("POST", "/v1/sessions/s/fork", {}, 413),
        ("POST", "/v1/sessions/s/erase", {}, 413),
        ("POST", "/v1/sessions?colour=red", {}, 400),
        ("POST", "/v1/sessions", {"Host": "evil.example"}, 403),
        ("POST", "/v1/sessions", {"Origin": "https://evil.example"}, 403),
        ("POST", "/v1/no-such-path", {}, 404),
        ("DELETE", "/v1/sessions/none", {}, 404),
        ("PUT", "/v1/sessions", {}, 405),
        ("GET", "/health/live", {}, 200),
    ],
)
def test_whoever_refuses_the_answer_arrives(
    shared_server: Server, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """Handlers, the routing, and what stands before it; and an answer without a refusal."""
    assert ask(shared_server, method, path, **headers)[0] == status


def test_without_a_credential_or_a_scope_the_answer_arrives(guarded: tuple[Server, str]) -> None:
    """Both are refused before anybody looks at the body."""
    server, key = guarded
    assert ask(server, "POST", "/v1/sessions")[0] == 401
    assert ask(server, "POST", "/v1/sessions", Authorization=f"Bearer {key}")[0] == 403


def test_beyond_the_limits_of_a_tenant_the_answer_arrives(tmp_path: Path) -> None:
    """The first request has used up the day."""
    env = {"CHATLEDGER_TENANT_BYTES_PER_DAY": "1"}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as server:
        assert ask(server, "POST", "/v1/sessions", times=1, body=b"{}")[0] == 201
        assert ask(server, "POST", "/v1/sessions")[0] == 429


def test_what_is_only_declared_does_not_use_up_a_day(tmp_path: Path) -> None:
    """A body that is refused for its length is not stored, so the tenant can still send others."""
    env = {"CHATLEDGER_TENANT_BYTES_PER_DAY": "1000"}
    with Server(tmp_path / "ledger.db", cwd=tmp_path, env=env) as server:
        assert ask(server, "POST", "/v1/sessions")[0] == 413
        assert ask(server, "POST", "/v1/sessions", times=1, body=b"{}")[0] == 201


def bytes_held(server: Server) -> float:
    """What requests take in the server's memory, as its metrics say."""
    text = urllib.request.urlopen(f"{server.url}/metrics", timeout=TIMEOUT_S).read().decode()  # noqa: S310
    found = re.search(r"^chatledger_bodies_bytes (\S+)$", text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def test_where_there_is_no_room_the_answer_arrives(narrow: Server) -> None:
    """Somebody else's body has taken it; when that is answered, there is room again."""
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", narrow.port), timeout=TIMEOUT_S) as holder:
        holder.sendall(head + b"Content-Length: 900000\r\n\r\n" + b" " * 899_998)
        while bytes_held(narrow) < BODY_TIMES * 899_998:
            continue
        status, document = ask(narrow, "POST", "/v1/sessions", body=LONG[:MIB])
        assert (status, document["type"]) == (503, "urn:chatledger:problem:overloaded")
        holder.sendall(b"{}")
        assert holder.recv(65536).startswith(b"HTTP/1.1 201 ")
    while bytes_held(narrow):  # given back behind the answer
        continue
    assert ask(narrow, "POST", "/v1/sessions", times=1, body=b" " * 900_000 + b"{}")[0] == 201


def test_a_body_that_is_alone_always_has_room(narrow: Server) -> None:
    """Otherwise it would be told to come again, and never be let in."""
    assert ask(narrow, "POST", "/v1/sessions", times=1, body=LONG[: 15 * MIB] + b"{}")[0] == 201


def test_a_client_that_asks_first_sends_nothing(shared_server: Server) -> None:
    """`Expect: 100-continue` is answered with the refusal, and not with a 100 (RFC 9110 section 10.1.1)."""
    head = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", shared_server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(head + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % len(LONG))
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_what_is_dropped_takes_no_memory(guarded: tuple[Server, str]) -> None:
    """Many at a time that nobody wants: the process has hardly grown at its largest."""
    server, _ = guarded

    def high_water_bytes() -> int:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", Path(f"/proc/{server.pid}/status").read_text(), re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    ask(server, "POST", "/v1/sessions")
    before = high_water_bytes()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: ask(server, "POST", "/v1/sessions")[0], range(8))) == {401}
    assert high_water_bytes() - before < len(LONG)
