"""What a request costs the event loop grows with its length and no faster, whatever stands in it.

Everybody waits while the loop's thread works. So for each parameter, header and body of the OpenAPI document, and for
headers that it does not have, shapes on which parsers go wrong are sent in two lengths, the longer four times the
shorter. What is measured is the processor time of the loop's thread, which other processes do not take part in.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.identity_provider import ed_key, jwks
from support.in_process import Asked, InProcess
from support.shapes import SHAPES, Shape

Ask = Callable[[bytes], Asked]

KIB = 1024
HEAD_SIZES = (16 * KIB, 64 * KIB)
BODY_SIZES = (256 * KIB, 1024 * KIB)
HEAD_S_MAX = 0.1
BODY_S_MAX = 0.1
FLOORS_S = {HEAD_SIZES: 0.005, BODY_SIZES: 0.03}
"""What costs less than this in the longer size is not compared: it would be the clock's noise."""
RATIO_MAX = 6.0
"""Of four times the length: 4 where the cost is linear, 16 where it is quadratic; half as much again for noise."""
PROBE_BYTES = 4 * KIB
TRIES = 5
"""A cost is the least of so many, since whatever else happens only adds to it."""
REFUSAL_BYTES_MAX = 2 * KIB

ORIGIN = b"https://chat.example"
JSON = (b"content-type", b"application/json")
HEADERS = [
    *("accept", "accept-encoding", "accept-language", "access-control-request-headers"),
    *("access-control-request-method", "authorization", "connection", "content-encoding", "content-length"),
    *("content-type", "cookie", "expect", "forwarded", "host", "if-modified-since", "if-range", "if-unmodified-since"),
    *("origin", "prefer", "range", "referer", "te", "traceparent", "transfer-encoding", "upgrade", "user-agent"),
    *("x-forwarded-for", "x-forwarded-host", "x-http-method-override"),
]
"""Beside those of the document."""
CREDENTIALS = [b"Bearer %b", b"Bearer clk_%b", b"Bearer clk_aaaaaaaaaaaa_%b", b"Bearer a.b.%b", b"Basic %b"]
REQUESTS = [
    ("GET", b"/v1/sessions/s"),
    ("POST", b"/v1/sessions/s/messages"),
    ("OPTIONS", b"/v1/sessions"),
    ("GET", b"/no-such-path"),
]
TARGETS = [
    *(b"/%b", b"/v1/%b", b"/v1/sessions/s/%b", b"/tlog/tile/%b", b"/tlog/tile/0/%b", b"/tlog/tile/entries/%b"),
    *(b"/schema/files/%b", b"/v1/sessions?%b", b"/v1/sessions/s/messages?limit=5&%b", b"/health/live?%b"),
]
BODIES: dict[str, list[bytes]] = {
    "createSession": [b"%b", b'{"title":"%b"}', b'{"traits":%b}', b'{"messages":[%b]}', b'{"%b":1}'],
    "updateSession": [b'{"title":"%b"}', b'{"traits":{"a":%b}}'],
    "forkSession": [b'{"version":%b}'],
    "appendMessages": [
        b'{"role":"user","content":"%b"}',
        b'{"id":"m","role":"user","content":"Hello","metadata":{"a":%b}}',
        b'{"role":"%b","content":""}',
        b'{"messages":[%b]}',
    ],
    "eraseSession": [b'{"reason":"%b"}'],
    "createKey": [b'{"scopes":[%b]}', b'{"name":"%b","scopes":["read"]}'],
}
"""Where a shape is put, in the body of each operation that takes one."""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """The service with user tokens, pages of one origin, a session `s` with a message `m`, and room for all sizes."""
    folder = tmp_path_factory.mktemp("linear")
    keys = folder / "jwks.json"
    keys.write_bytes(jwks(ed_key("k")))
    tokens = {"jwks": str(keys), "jwt_issuer": "i", "jwt_audience": "a", "cors_origins": ORIGIN.decode()}
    sizes = {"message_bytes_max": 2 * 1024 * KIB, "session_bytes_max": 256 * KIB}
    with InProcess(folder / "ledger.db", **tokens, **sizes) as running:
        made = b'{"id":"s","messages":[{"id":"m","role":"user","content":"Hello"}]}'
        assert running.ask("POST", b"/v1/sessions", headers=[JSON, credential(running)], body=made).status == 201
        yield running


def credential(service: InProcess) -> tuple[bytes, bytes]:
    """One with which everything is allowed."""
    return (b"authorization", b"Bearer " + service.app.services.doors.local_credential.encode())


def operations(service: InProcess) -> Iterator[tuple[str, bytes, dict[str, Any]]]:
    """Of each operation of the document: its method, a path on which it finds something, and the operation."""
    document = json.loads(service.ask("GET", b"/schema/openapi.json").body)
    for path, item in document["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path.encode(), operation


def filled(path: bytes, but: str = "") -> bytes:
    """*path* with ids for its parameters, and `%b` for the parameter *but*."""
    known = {"session_id": b"s", "message_id": b"m", "key_id": b"k_000000000000", "level": b"0", "place": b"000"}
    for name, value in known.items():
        path = path.replace(b"{%b}" % name.encode(), b"%b" if name == but else value)
    return path


def least_s(ask: Ask, text: bytes, times: int) -> float:
    """The least processor time of *times* requests with *text*."""
    return min(ask(text).cpu_s for _ in range(times))


def faults(what: str, ask: Ask, sizes: tuple[int, int], bound_s: float) -> Iterator[str]:
    """What is wrong with the answers to requests with each of the shapes at *what*."""
    for shape in SHAPES:
        probe = ask(shape.of(PROBE_BYTES))
        if probe.cpu_s > bound_s:  # the long one might take hours
            yield f"{what} {shape}: {probe.cpu_s:.1f} s for {PROBE_BYTES} bytes"
            return
        answer = ask(shape.of(sizes[1]))
        if answer.status >= 500 or (answer.status >= 400 and len(answer.body) > REFUSAL_BYTES_MAX):
            yield f"{what} {shape}: {answer.status} with {len(answer.body)} bytes"
        if answer.cpu_s > FLOORS_S[sizes]:
            yield from slow(f"{what} {shape}", ask, shape, sizes, bound_s)


def slow(what: str, ask: Ask, shape: Shape, sizes: tuple[int, int], bound_s: float) -> Iterator[str]:
    """Whether *shape* costs too much, or too much more in the longer of two *sizes*."""
    short, long = sizes
    long_s = least_s(ask, shape.of(long), TRIES)
    if long_s > bound_s:
        yield f"{what}: {1000 * long_s:.0f} ms"
    if long_s > FLOORS_S[sizes]:
        short_s = least_s(ask, shape.of(short), TRIES)
        if long_s > RATIO_MAX * short_s:
            yield f"{what}: {1000 * short_s:.2f} ms, and {1000 * long_s:.2f} ms for four times the length"


def test_parameters_of_paths_and_queries_cost_what_their_length_is(service: InProcess) -> None:
    """Each one of each operation, raw and as it comes."""
    found: list[str] = []
    for method, path, operation in operations(service):
        for parameter in operation.get("parameters", []):
            name = parameter["name"]
            if parameter["in"] == "path":
                target = filled(path, name)
            elif parameter["in"] == "query":
                target = filled(path) + b"?" + name.encode() + b"=%b"
            else:
                continue

            def ask(text: bytes, method: str = method, target: bytes = target) -> Asked:
                return service.ask(method, target % text, headers=[JSON, credential(service)], body=b"{}")

            found += faults(f"{operation['operationId']} {name}", ask, HEAD_SIZES, HEAD_S_MAX)
    assert found == []


def test_headers_cost_what_their_length_is(service: InProcess) -> None:
    """Each one of each operation; those that every request can have, once for each method."""
    found: list[str] = []
    tried: set[tuple[str, bytes]] = set()
    for method, path, operation in operations(service):
        for parameter in operation.get("parameters", []):
            name = parameter["name"].lower().encode()
            if parameter["in"] != "header" or (method, name) in tried:
                continue
            if name in (b"x-request-id", b"x-tenant-id"):
                tried.add((method, name))

            def ask(text: bytes, method: str = method, path: bytes = filled(path), name: bytes = name) -> Asked:
                return service.ask(method, path, headers=[JSON, credential(service), (name, text)], body=b"{}")

            found += faults(f"{operation['operationId']} {parameter['name']}", ask, HEAD_SIZES, HEAD_S_MAX)
    assert found == []


@pytest.mark.parametrize("name", HEADERS)
def test_other_headers_cost_what_their_length_is(service: InProcess, name: str) -> None:
    """Whoever reads them, if anybody does: on a read, a write, a preflight, and a path that is not there."""
    found: list[str] = []
    for method, target in REQUESTS:
        usual = [JSON, credential(service), (b"origin", ORIGIN), (b"access-control-request-method", b"POST")]
        others = [pair for pair in usual if pair[0] != name.encode()]

        def ask(text: bytes, method: str = method, target: bytes = target, others: Any = others) -> Asked:
            return service.ask(method, target, headers=[*others, (name.encode(), text)], body=b"{}")

        found += faults(f"{method} {target.decode()} {name}", ask, HEAD_SIZES, HEAD_S_MAX)
    assert found == []


@pytest.mark.parametrize("form", CREDENTIALS)
def test_credentials_cost_what_their_length_is(service: InProcess, form: bytes) -> None:
    """Nobody has to be known for them to be read."""

    def ask(text: bytes) -> Asked:
        return service.ask("GET", b"/v1/sessions", headers=[(b"authorization", form % text)])

    assert list(faults(form.decode(), ask, HEAD_SIZES, HEAD_S_MAX)) == []


@pytest.mark.parametrize("form", TARGETS)
def test_targets_cost_what_their_length_is(service: InProcess, form: bytes) -> None:
    """Paths are routed, and queries are parsed, before anybody knows who asks."""

    def ask(text: bytes) -> Asked:
        return service.ask("GET", form % text.replace(b"?", b"").replace(b"#", b""), headers=[credential(service)])

    assert list(faults(form.decode(), ask, HEAD_SIZES, HEAD_S_MAX)) == []


def test_every_body_is_tried(service: InProcess) -> None:
    """An operation that takes a body has its places for shapes here."""
    taking = {operation["operationId"] for _, _, operation in operations(service) if "requestBody" in operation}
    assert taking == set(BODIES)


@pytest.mark.parametrize(
    ("operation", "form"),
    [(name, form) for name, forms in BODIES.items() for form in forms],
    ids=str,
)
def test_bodies_cost_what_their_length_is(service: InProcess, operation: str, form: bytes) -> None:
    """As a whole, in a string, as a value, as a name."""
    method, path = next(
        (method, filled(path)) for method, path, found in operations(service) if found["operationId"] == operation
    )
    headers = [JSON, credential(service)]

    def ask(text: bytes) -> Asked:
        return service.ask(method, path, headers=headers, body=form % text)

    assert list(faults(f"{operation} {form.decode()}", ask, BODY_SIZES, BODY_S_MAX)) == []
