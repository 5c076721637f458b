"""How long a body, a message, several messages together and all of them at once may be; and what is given back."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from chatledger.settings import Settings
from support.api import TIMEOUT_S, create, problem, talk
from support.server import Server

MIB = 1024 * 1024
DEFAULTS = Settings()
SMALL_BODY = 8 * DEFAULTS.session_bytes_max
JSON = {"Content-Type": "application/json"}
HEAD = b"POST /v1/sessions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def message(size_bytes: int) -> str:
    """The JSON of a message that has just so many bytes."""
    empty = '{"role":"user","content":""}'
    return empty[:-2] + "x" * (size_bytes - len(empty)) + empty[-2:]


def padded(document: object, size_bytes: int) -> bytes:
    """*document* with white space behind it, up to so many bytes."""
    return json.dumps(document).encode().ljust(size_bytes)


def post(client: httpx.Client, path: str, body: str | bytes) -> httpx.Response:
    """Send a body as it is."""
    return client.post(path, content=body, headers=JSON)


def bytes_held(client: httpx.Client) -> float:
    """What requests take in the server's memory, as its metrics say."""
    found = re.search(r"^chatledger_bodies_bytes (\S+)$", client.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


@pytest.fixture
def long_messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of a server that takes messages as long as several of them may be together."""
    folder = tmp_path_factory.mktemp("long")
    env = {"CHATLEDGER_MESSAGE_BYTES_MAX": str(8 * MIB)}
    with Server(folder / "ledger.db", cwd=folder, env=env) as server, server.client() as client:
        yield client


def test_the_largest_body_is_taken_and_one_byte_more_is_not(api: httpx.Client) -> None:
    """With the limits as they are by default, so all of them leave room for it."""
    limit = DEFAULTS.body_bytes_max
    assert post(api, "/v1/sessions", padded({"id": "s"}, limit)).status_code == 201
    refused = problem(post(api, "/v1/sessions", padded({"id": "t"}, limit + 1)), 413, "too-large")
    assert refused["limit_bytes"] == limit


def test_several_messages_have_a_limit_together(api: httpx.Client) -> None:
    """Each of them alone would be taken."""
    create(api)
    limit = DEFAULTS.batch_bytes_max
    eight = [message(limit // 8)] * 8
    for extra, status in (([], 201), ([message(30)], 413)):
        batch = f'{{"messages":[{",".join(eight + extra)}]}}'
        answers = [post(api, "/v1/sessions/s/messages", batch), post(api, "/v1/sessions", batch)]
        assert [answer.status_code for answer in answers] == [status, status]
        if status == 413:
            for answer in answers:
                assert problem(answer, 413, "too-large")["limit_bytes"] == limit
                assert "batch of messages" in answer.json()["detail"]
    assert len(api.get("/v1/sessions/s/messages?limit=1000").json()["data"]) == 8


@pytest.mark.parametrize("form", ["%s", '{"messages":[%s]}', '{"messages":[{"role":"user","content":""},%s]}'])
def test_a_message_has_its_own_limit(api: httpx.Client, form: str) -> None:
    """Wherever it stands."""
    create(api)
    limit = DEFAULTS.message_bytes_max
    assert post(api, "/v1/sessions/s/messages", form % message(limit)).status_code == 201
    refused = post(api, "/v1/sessions/s/messages", form % message(limit + 1))
    assert problem(refused, 413, "too-large")["limit_bytes"] == limit


def test_one_message_can_be_as_long_as_several(long_messages: httpx.Client) -> None:
    """Alone, and alone in a batch, whose body is then longer than several messages may be."""
    create(long_messages)
    longest = message(8 * MIB)
    assert post(long_messages, "/v1/sessions/s/messages", longest).status_code == 201
    assert post(long_messages, "/v1/sessions/s/messages", f'{{"messages":[{longest}]}}').status_code == 201
    assert post(long_messages, "/v1/sessions", f'{{"id":"t","messages":[{longest}]}}').status_code == 201
    two = f'{{"messages":[{message(5 * MIB)},{message(5 * MIB)}]}}'
    assert problem(post(long_messages, "/v1/sessions/s/messages", two), 413)["limit_bytes"] == 8 * MIB
    found = long_messages.get("/v1/sessions/t/messages").json()["data"]
    assert [len(each["content"]) for each in found] == [len(json.loads(longest)["content"])]


@pytest.mark.parametrize(
    ("method", "path", "document", "status"),
    [
        ("PATCH", "/v1/sessions/s", {"title": "t"}, 200),
        ("POST", "/v1/sessions/s/fork", {}, 201),
        ("POST", "/v1/sessions/s/erase", {"reason": "asked"}, 200),
    ],
)
def test_bodies_without_messages_are_short(
    api: httpx.Client, method: str, path: str, document: object, status: int
) -> None:
    """With white space too."""
    create(api, messages=talk(1))
    beyond = api.request(method, path, content=padded(document, SMALL_BODY + 1), headers=JSON)
    assert problem(beyond, 413, "too-large")["limit_bytes"] == SMALL_BODY
    assert api.request(method, path, content=padded(document, SMALL_BODY), headers=JSON).status_code == status


def test_traits_are_refused_before_anybody_looks_into_them(api: httpx.Client) -> None:
    """By the limit of what a session itself has."""
    body = '{"traits":{"a":%s}}' % ("[" * 300_000 + "]" * 300_000)
    refused = problem(post(api, "/v1/sessions", body), 400)
    assert "nest" in refused["detail"]
    long = '{"traits":{"a":"%s"}}' % ("x" * SMALL_BODY)
    assert problem(post(api, "/v1/sessions", long), 413)["limit_bytes"] == DEFAULTS.session_bytes_max


def test_what_a_body_takes_is_given_back_however_it_ends(server: Server, client: httpx.Client) -> None:
    """Taken, refused for what it says or for its length, or left in the middle."""
    assert post(client, "/v1/sessions", padded({"id": "s"}, MIB)).status_code == 201
    assert post(client, "/v1/sessions", b"{" * MIB).status_code == 400
    assert client.post("/v1/sessions", content=iter([b" " * MIB] * 18), headers=JSON).status_code == 413
    assert client.patch("/v1/sessions/s", content=b" " * MIB, headers=JSON).status_code == 413
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % MIB + b" " * (MIB // 2))
    while bytes_held(client) < 3 * MIB // 2:
        continue
    connection.close()
    while bytes_held(client):
        continue
