"""What the tests of the HTTP API share: requests that have to succeed, and the marks of a good answer."""

import json
import re
import socket
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx

from support.server import Server

Json = dict[str, Any]

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
LEAKS = ("Traceback", "SELECT", "INSERT", "/tmp", "/home", ".py", "sqlite", "apsw", "msgspec", "litestar")  # noqa: S108
PROBLEM = "application/problem+json"
TIMEOUT_S = 30


@dataclass(frozen=True)
class Digits:
    """A JSON number as it was written."""

    text: str


def exact(text: str) -> Any:
    """The JSON value of *text*, in which numbers are equal only if their digits are."""
    return json.loads(text, parse_int=Digits, parse_float=Digits)


def fresh(prefix: str) -> str:
    """An id that nobody else uses."""
    return f"{prefix}-{uuid.uuid4().hex}"


def client_of(server: Server, transport: httpx.HTTPTransport, tenant: str) -> httpx.Client:
    """A client that needs no closing, because its connections are the module's."""
    headers = {"X-Tenant-Id": tenant}
    return httpx.Client(base_url=server.url, headers=headers, transport=transport, timeout=TIMEOUT_S)


def create(client: httpx.Client, session: str = "s", **fields: Any) -> Json:
    """Create a session and return the answer."""
    response = client.post("/v1/sessions", json={"id": session, **fields})
    assert response.status_code == 201, response.text
    return response.json()


def talk(count: int, **fields: Any) -> list[Json]:
    """So many messages, whose ids are m1, m2, m3 and so on."""
    return [{"id": f"m{n}", "role": "user", "content": f"message {n}", **fields} for n in range(1, count + 1)]


def append(client: httpx.Client, session: str = "s", **fields: Any) -> Json:
    """Append one message and return the answer."""
    message = {"role": "user", "content": "Hello", **fields}
    response = client.post(f"/v1/sessions/{session}/messages", json=message)
    assert response.status_code == 201, response.text
    return response.json()


def read(client: httpx.Client, path: str, **params: Any) -> Json:
    """Read *path* and return the answer."""
    response = client.get(path, params=params)
    assert response.status_code == 200, response.text
    return response.json()


def messages(client: httpx.Client, session: str = "s", **params: Any) -> list[Json]:
    """A page of the session's messages."""
    return read(client, f"/v1/sessions/{session}/messages", **params)["data"]


def pages(client: httpx.Client, path: str, **params: Any) -> Iterator[list[Json]]:
    """Each page of a listing, by its cursors, to the end."""
    page = read(client, path, **params)
    yield page["data"]
    while page["next_cursor"] is not None:
        page = read(client, path, **params, cursor=page["next_cursor"])
        yield page["data"]


def events(client: httpx.Client, path: str = "/v1/events", **params: Any) -> list[Json]:
    """All events of the client's tenant, or of the session at *path*."""
    return [event for page in pages(client, path, **params) for event in page]


def problem(response: httpx.Response, status: int, name: str | None = None) -> Json:
    """Check that the answer is this problem, complete and without secrets, and return its document."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == PROBLEM
    document = response.json()
    assert {"type", "title", "status", "detail", "request_id"} <= document.keys()
    assert document["type"].startswith("urn:chatledger:problem:")
    assert name is None or document["type"] == f"urn:chatledger:problem:{name}"
    assert document["status"] == status
    assert document["title"]
    assert document["detail"]
    assert document["request_id"] == response.headers["x-request-id"]
    assert [leak for leak in LEAKS if leak in response.text] == []
    return document


def raw(server: Server, request: bytes) -> bytes:
    """Send these bytes, close our side, and return all that the server says before it closes its own."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))
