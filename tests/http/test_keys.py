"""`/v1/admin/keys`: keys made, listed and revoked over HTTP, by operators and by tenants."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatledger.domain.api_keys import KEY_PATTERN, id_of
from support.api import Json, events, fresh, pages, problem, read
from support.command import succeed
from support.server import TEST_WORKERS, Server, ServerDidNotStart
from support.wire import Request, Wire

KEYS = "/v1/admin/keys"
DEADLINE_S = 30


@pytest.fixture(scope="module")
def operators_key(shared_server: Server) -> str:
    """The first key of the module's server, made on the machine itself."""
    return created_beside(shared_server, "--operator")


@pytest.fixture
def operator(shared_server: Server, operators_key: str) -> Iterator[httpx.Client]:
    """A client with it."""
    with with_key(shared_server, operators_key) as client:
        yield client


@pytest.fixture
def tenant() -> str:
    """A tenant that no other test uses."""
    return fresh("tenant")


def created_beside(server: Server, *options: str) -> str:
    """A key that the command makes."""
    folder = Path(server.database).parent
    return succeed("key", "create", "--database", server.database, *options, cwd=folder).splitlines()[-1]


def with_key(server: Server, key: str, **headers: str) -> httpx.Client:
    """A client that shows *key*."""
    shown = {"Authorization": f"Bearer {key}", **headers}
    return httpx.Client(base_url=server.url, headers=shown, timeout=30, trust_env=False)


def make(client: httpx.Client, **body: Any) -> Json:
    """A new key."""
    answer = client.post(KEYS, json=body)
    assert answer.status_code == 201, answer.text
    return dict(answer.json())


def of_tenant(server: Server, operator: httpx.Client, tenant: str, *scopes: str) -> httpx.Client:
    """A client with a new key of *tenant*."""
    return with_key(server, make(operator, tenant_id=tenant, scopes=scopes)["key"])


def test_a_key_is_shown_once_and_works(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """In the answer that makes it; no list and no event has its text or what would do for it."""
    made = make(operator, tenant_id=tenant, scopes=["write", "read", "read"], name="web frontend, ü")
    assert re.fullmatch(KEY_PATTERN, made["key"])
    assert made == {
        "id": id_of(made["key"]),
        "tenant_id": tenant,
        "operator": False,
        "name": "web frontend, ü",
        "scopes": ["read", "write"],
        "created_at": made["created_at"],
        "created_by": made["created_by"],
        "expires_at": None,
        "revoked_at": None,
        "revoked_by": None,
        "last_used_at": None,
        "key": made["key"],
    }
    with with_key(shared_server, made["key"]) as client:
        assert client.post("/v1/sessions", json={"id": "s"}).json()["tenant_id"] == tenant
    with with_key(shared_server, operator.headers["authorization"][7:], **{"X-Tenant-Id": "$system"}) as auditor:
        told = events(auditor, "/v1/events", type="key.created")
    assert told[-1]["data"]["key_id"] == made["id"]
    assert made["key"][17:] not in json.dumps(told)
    listed = [key for page in pages(operator, KEYS) for key in page if key["id"] == made["id"]]
    assert [key.keys() for key in listed] == [made.keys() - {"key"}]


@pytest.mark.skipif(TEST_WORKERS != "1", reason="what another worker saw is known a second later")
def test_its_last_use_is_shown(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """At once, although it is written down later; a refused use counts too, a wrong secret does not."""
    made = make(operator, tenant_id=tenant, scopes=["read"])

    def last_used() -> str | None:
        (found,) = [key for page in pages(operator, KEYS) for key in page if key["id"] == made["id"]]
        return found["last_used_at"]

    wrong = made["key"][:-1] + ("0" if made["key"][-1] != "0" else "1")
    with with_key(shared_server, wrong) as client:
        problem(client.get("/v1/sessions"), 401, "unauthenticated")
    assert last_used() is None
    with with_key(shared_server, made["key"]) as client:
        problem(client.get("/v1/events"), 403, "forbidden")
        first = last_used()
        read(client, "/v1/sessions")
    assert made["created_at"] < str(first) < str(last_used())


def test_the_uses_are_there_after_a_restart(server: Server) -> None:
    """And so are the keys, the revoked ones revoked: they come out of the ledger."""
    operators = created_beside(server, "--operator")
    with with_key(server, operators) as operator:
        kept, lost = (make(operator, tenant_id="t", scopes=["read"]) for _ in range(2))
        for made in (kept, lost):
            with with_key(server, made["key"]) as client:
                read(client, "/v1/sessions")
        assert operator.delete(f"{KEYS}/{lost['id']}").status_code == 204
        before = read(operator, KEYS)["data"]
    assert server.stop() == 0
    server.start()
    with with_key(server, operators) as operator:
        after = read(operator, KEYS)["data"]
        if TEST_WORKERS == "1":  # what another worker saw is known a second later: `before` may lack it
            assert [key["last_used_at"] for key in after[1:]] == [key["last_used_at"] for key in before[1:]]
        assert all(key["last_used_at"] for key in after)
        assert [key["revoked_at"] for key in after] == [key["revoked_at"] for key in before]
    for made, status in ((kept, 200), (lost, 401)):
        with with_key(server, made["key"]) as client:
            assert client.get("/v1/sessions").status_code == status


def test_a_key_ends_at_its_time(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """Not before. Whole seconds, offsets and fractions are all times."""
    for wrong in ("2020-01-01T00:00:00Z", "tomorrow", "2099-01-01", "", 7):
        field = problem(operator.post(KEYS, json={"tenant_id": tenant, "scopes": ["read"], "expires_at": wrong}), 400)
        assert field["field"] == "$.expires_at"
    end_s = time.time() + 1.5
    end = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(end_s + 3600))}.{int(end_s % 1 * 1000):03}+01:00"
    made = make(operator, tenant_id=tenant, scopes=["read"], expires_at=end)
    assert made["expires_at"].endswith("Z")
    with with_key(shared_server, made["key"]) as client:
        while (answer := client.get("/v1/sessions")).status_code == 200:
            assert time.time() < end_s + DEADLINE_S
        assert time.time() > end_s - 0.01
        assert problem(answer, 401, "unauthenticated")["detail"] == "The key has expired."
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_a_revoked_key_is_refused_at_once(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """From the answer on, on connections that are open already too; what was let in before is finished."""
    made = make(operator, tenant_id=tenant, scopes=["read", "write"])
    body = b'{"id":"under-way"}'
    head = (
        f"POST /v1/sessions HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {made['key']}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode()
    with Wire(shared_server.port) as kept, Wire(shared_server.port) as late:
        shown = {"authorization": f"Bearer {made['key']}"}
        assert kept.ask(Request.of("GET", "/v1/sessions", **shown)).status == 200
        late.send(head + body[:5])
        while _bodies_reading(operator) < 1:  # it has been let in
            continue
        assert operator.delete(f"{KEYS}/{made['id']}").status_code == 204
        answer = kept.ask(Request.of("GET", "/v1/sessions", **shown))
        assert (answer.status, answer.document["detail"]) == (401, "The key was revoked.")
        late.send(body[5:])
        assert late.read_answer().status == 201
        assert late.ask(Request.of("POST", "/v1/sessions", {}, **shown)).status == 401
    assert operator.delete(f"{KEYS}/{made['id']}").status_code == 204  # again: nothing changes
    (found,) = [key for page in pages(operator, KEYS) for key in page if key["id"] == made["id"]]
    with with_key(shared_server, operator.headers["authorization"][7:], **{"X-Tenant-Id": "$system"}) as auditor:
        told = [each for each in events(auditor, type="key.revoked") if each["data"]["key_id"] == made["id"]]
    (event,) = told
    assert (event["actor"], event["recorded_at"]) == (found["revoked_by"], found["revoked_at"])


def _bodies_reading(operator: httpx.Client) -> int:
    found = re.search(r"^chatledger_bodies_reading (\d+)", operator.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return int(found[1])


def test_a_tenant_has_its_own_keys_only(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """It makes, lists and revokes them, with any scope of a tenant; others' and operators' it cannot."""
    stranger = make(operator, tenant_id=fresh("stranger"), scopes=["read"])
    with of_tenant(shared_server, operator, tenant, "admin") as admin:
        made = make(admin, scopes=["read", "write", "audit", "erase", "admin"], tenant_id=tenant)
        assert made["tenant_id"] == tenant
        for body in (
            {"scopes": ["read"], "tenant_id": stranger["tenant_id"]},
            {"scopes": ["read"], "tenant_id": "$system"},
            {"operator": True},
            {"operator": True, "tenant_id": stranger["tenant_id"]},
        ):
            problem(admin.post(KEYS, json=body), 403, "forbidden")
        problem(admin.post(KEYS, json={"scopes": ["operator"]}), 400)
        problem(admin.post(KEYS, json={"operator": True, "tenant_id": tenant}), 400)
        keys = read(admin, KEYS)["data"]
        assert [key["tenant_id"] for key in keys] == [tenant, tenant]
        assert made["created_by"] == f"key:{keys[0]['id']}"
        foreign, absent = (admin.delete(f"{KEYS}/{key}") for key in (stranger["id"], "k_000000000000"))
        for answer in (foreign, absent):
            problem(answer, 404, "not-found")
        with with_key(shared_server, stranger["key"]) as client:
            read(client, "/v1/sessions")
        # Its own too, which it can no longer use then.
        assert admin.delete(f"{KEYS}/{keys[0]['id']}").status_code == 204
        problem(admin.get(KEYS), 401, "unauthenticated")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "$.operator"),
        ({"scopes": ["read"]}, "$.operator"),
        ({"tenant_id": "t"}, "$.scopes"),
        ({"tenant_id": "t", "scopes": []}, "$.scopes"),
        ({"tenant_id": "t", "scopes": ["all"]}, "$.scopes"),
        ({"tenant_id": "t", "scopes": ["Read"]}, "$.scopes"),
        ({"tenant_id": "t", "scopes": ["read", "operator"]}, "$.scopes"),
        ({"tenant_id": "t", "scopes": "read"}, "$.scopes"),
        ({"tenant_id": "t", "scopes": [1]}, "$.scopes[0]"),
        ({"operator": True, "scopes": ["read"]}, "$.scopes"),
        ({"operator": True, "tenant_id": "t"}, "$.operator"),
        ({"operator": 1}, "$.operator"),
        ({"tenant_id": "$system", "scopes": ["read"]}, "$.tenant_id"),
        ({"tenant_id": "a/b", "scopes": ["read"]}, "$.tenant_id"),
        ({"tenant_id": "", "scopes": ["read"]}, "$.tenant_id"),
        ({"tenant_id": "..", "scopes": ["read"]}, "$.tenant_id"),
        ({"tenant_id": "t", "scopes": ["read"], "name": ""}, "$.name"),
        ({"tenant_id": "t", "scopes": ["read"], "name": "n" * 201}, "$.name"),
        ({"tenant_id": "t", "scopes": ["read"], "name": "a\nb"}, "$.name"),
        ({"tenant_id": "t", "scopes": ["read"], "name": "a\x1b[2Jb"}, "$.name"),
        ({"tenant_id": "t", "scopes": ["read"], "name": "a\u202eb"}, "$.name"),
        ({"tenant_id": "t", "scopes": ["read"], "key": "clk_mine"}, "$.key"),
    ],
)
def test_what_makes_no_sense_is_refused(operator: httpx.Client, body: Json, field: str) -> None:
    """With the member that is wrong, and no event."""
    size = read(operator, "/v1/ledger/head")["size"]
    assert problem(operator.post(KEYS, json=body), 400, "invalid-request")["field"] == field
    assert read(operator, "/v1/ledger/head")["size"] == size


def test_the_longest_name_is_taken(operator: httpx.Client, tenant: str) -> None:
    """200 characters, whatever they are in bytes."""
    assert make(operator, tenant_id=tenant, scopes=["read"], name="𝄞" * 200)["name"] == "𝄞" * 200


def test_a_retry_makes_no_second_key_and_shows_no_text(operator: httpx.Client, tenant: str) -> None:
    """Nobody has it any more. The same key with another body is refused."""
    body, headers = {"tenant_id": tenant, "scopes": ["read"]}, {"Idempotency-Key": fresh("try")}
    first, second = (operator.post(KEYS, json=body, headers=headers) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 201)
    assert ("idempotency-replayed" in first.headers, second.headers["idempotency-replayed"]) == (False, "true")
    shown = first.json()
    assert re.fullmatch(KEY_PATTERN, shown.pop("key"))
    assert second.json() == shown
    other = operator.post(KEYS, json={**body, "scopes": ["write"]}, headers=headers)
    problem(other, 422, "idempotency-mismatch")
    assert sum(key["tenant_id"] == tenant for page in pages(operator, KEYS) for key in page) == 1


def test_retries_of_tenants_and_operators_are_apart(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """All their keys are in one stream, and still nobody gets another one's answer."""
    headers, body = {"Idempotency-Key": fresh("try")}, {"scopes": ["read"]}
    made = [operator.post(KEYS, json={"operator": True}, headers=headers)]
    for name in (tenant, fresh("other")):
        with of_tenant(shared_server, operator, name, "admin") as admin:
            made.append(admin.post(KEYS, json=body, headers=headers))
    assert [answer.status_code for answer in made] == [201] * 3
    assert len({answer.json()["key"] for answer in made}) == 3


def test_pages_go_through_all_keys(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """In the order of their creation, with others' between them; a cursor is good for its own listing only."""
    with of_tenant(shared_server, operator, tenant, "admin") as admin:
        made = []
        for _ in range(3):
            made.append(make(admin, scopes=["read"])["id"])
            make(operator, tenant_id=fresh("other"), scopes=["read"])
        listed = list(pages(admin, KEYS, limit=1))
        assert [key["id"] for page in listed for key in page][1:] == made
        assert [len(page) for page in listed] == [1] * 4
        cursor = read(admin, KEYS, limit=1)["next_cursor"]
        problem(operator.get(KEYS, params={"cursor": cursor}), 400)
        problem(admin.get(KEYS, params={"cursor": read(operator, KEYS, limit=1)["next_cursor"]}), 400)
        problem(admin.get(KEYS, params={"limit": 0}), 400)


def test_an_operator_audits_what_was_done_to_keys(shared_server: Server, operator: httpx.Client, tenant: str) -> None:
    """In `$system`, with actor and request id. A tenant's auditor sees nothing of it, and nobody writes there."""
    key = operator.headers["authorization"][7:]
    made = make(operator, tenant_id=tenant, scopes=["read", "write", "audit", "erase", "admin"])
    system = {"X-Tenant-Id": "$system"}
    with with_key(shared_server, key, **system) as auditor:
        event = events(auditor)[-1]
        assert (event["tenant_id"], event["type"], event["actor"]) == ("$system", "key.created", f"key:{id_of(key)}")
        assert event["data"]["key_id"] == made["id"]
        assert read(auditor, f"/v1/sessions/{event['session_id']}/events", limit=1)["data"]
        assert read(auditor, f"/v1/sessions/{event['session_id']}/proof")["events"]
    with with_key(shared_server, made["key"], **system) as client:
        for path in ("/v1/events", "/v1/sessions", f"/v1/sessions/{event['session_id']}/events"):
            problem(client.get(path), 400, "invalid-request")
    with with_key(shared_server, made["key"]) as client:
        assert events(client) == []
        problem(client.get(f"/v1/sessions/{event['session_id']}/events"), 404)


def test_nobody_erases_the_keys(server: Server) -> None:
    """Not even a command on the machine itself: with them the service would be open again."""
    operators = created_beside(server, "--operator")
    credential = json.loads(Path(server.database + ".lock").read_bytes())["credential"]
    with with_key(server, credential, **{"X-Tenant-Id": "$system"}) as local:
        (event,) = events(local)
        stream = f"/v1/sessions/{event['session_id']}"
        problem(local.post(f"{stream}/erase", json={"reason": "r"}), 400, "invalid-request")
        problem(local.post(f"{stream}/messages", json={"role": "user", "content": "c"}), 400)
        problem(local.post("/v1/sessions", json={"id": "s"}), 400)
        problem(local.delete(stream), 400)
    assert server.stop() == 0
    server.start()
    with server.client() as nobody, with_key(server, operators) as operator:
        problem(nobody.get("/v1/sessions"), 401)
        assert len(read(operator, KEYS)["data"]) == 1


def test_the_first_key_shuts_an_open_server(server: Server, client: httpx.Client) -> None:
    """At once, on connections that are open too; the first key is made on the machine, not over HTTP."""
    read(client, "/v1/sessions")
    problem(client.post(KEYS, json={"operator": True}), 403, "forbidden")
    problem(client.get(KEYS), 403, "forbidden")
    key = created_beside(server, "--tenant", "default", "--scopes", "read")
    answer = client.get("/v1/sessions")
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="chatledger"'
    problem(client.get("/metrics"), 401)
    assert client.get("/health/ready").status_code == 200
    with with_key(server, key) as reader:
        read(reader, "/v1/sessions")
    # Revoking the last one does not open it, and a restart neither.
    succeed("key", "revoke", id_of(key), "--database", server.database, cwd=Path(server.database).parent)
    problem(client.get("/v1/sessions"), 401)
    assert server.stop() == 0
    server.start()
    problem(client.get("/v1/sessions"), 401)


def test_there_is_a_limit_of_keys(tmp_path: Path) -> None:
    """Of one tenant's and of operators' that are not revoked; another tenant has its own."""
    succeed("key", "create", "--operator", "--database", "l.db", cwd=tmp_path)
    key = succeed("key", "create", "--operator", "--database", "l.db", cwd=tmp_path).splitlines()[-1]
    with (
        Server(tmp_path / "l.db", env={"CHATLEDGER_KEYS_MAX": "2"}, cwd=tmp_path) as server,
        with_key(server, key) as operator,
    ):
        made = [make(operator, tenant_id="a", scopes=["read"]) for _ in range(2)]
        for body in ({"operator": True}, {"tenant_id": "a", "scopes": ["read"]}):
            assert "revoke" in problem(operator.post(KEYS, json=body), 400, "invalid-request")["detail"]
        make(operator, tenant_id="b", scopes=["read"])
        assert operator.delete(f"{KEYS}/{made[0]['id']}").status_code == 204
        make(operator, tenant_id="a", scopes=["read"])


def test_it_serves_beyond_loopback_only_with_a_key(tmp_path: Path) -> None:
    """It refuses to be open to strangers, and says what to do."""
    everywhere = {"CHATLEDGER_HOST": "0.0.0.0"}  # noqa: S104  # refused, and then only with a key
    with pytest.raises(ServerDidNotStart, match="Make a key first"):
        Server(tmp_path / "l.db", env=everywhere, cwd=tmp_path).start()
    key = succeed("key", "create", "--operator", "--database", "l.db", cwd=tmp_path).splitlines()[-1]
    with Server(tmp_path / "l.db", env=everywhere, cwd=tmp_path) as server, with_key(server, key) as operator:
        assert operator.get("/metrics").status_code == 200
        assert server.stop() == 0
    # Also once the key is revoked: then nobody gets in.
    succeed("key", "revoke", id_of(key), "--database", "l.db", cwd=tmp_path)
    with Server(tmp_path / "l.db", env=everywhere, cwd=tmp_path) as server, server.client() as nobody:
        problem(nobody.get("/v1/sessions"), 401)
        assert server.stop() == 0
