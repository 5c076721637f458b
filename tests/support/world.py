"""Two tenants, their users, and every kind of credential, on a real server: what tests of isolation are made in."""

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.access import TENANT_SCOPES
from service.commands import CreateKey, RevokeKey
from service.committer import Submission
from service.events import KEYS_SESSION, SYSTEM_TENANT, KeyCreated
from service.keys import digest_of, id_of, new_text
from service.location import Location, noted_address
from service.settings import Settings
from support.altered import WatchedServer
from support.identity_provider import ed_key, jwks, sign
from support.store import Store

Json = dict[str, Any]

A, B = "tenant-a", "tenant-b"
U1, U2, U3 = "user-1", "user-2", "user-3"
"""Two users of A, and one of B."""
ISSUER, AUDIENCE = "https://id.example.org/", "chatledger"
SCOPES = frozenset(scope.value for scope in TENANT_SCOPES)
OPERATOR = frozenset({"operator", "audit", "admin"})
USER = frozenset({"read", "write"})
PAST = "2001-01-01T00:00:00.000000Z"
KEYS_MAX = 100_000

CANARY = {B: "canary-of-tenant-b", U2: "canary-of-user-2"}
"""What nobody else may ever be shown."""


@dataclass(frozen=True)
class Credential:
    """Something that a caller shows. *scopes* is None where it is no good; *tenant* None where a header names it."""

    name: str
    text: str | None
    scopes: frozenset[str] | None = None
    tenant: str | None = None
    user: str | None = None

    def __str__(self) -> str:
        """The name, for a test's id."""
        return self.name

    @property
    def acts_in(self) -> str:
        """The tenant that it is used in here."""
        return self.tenant or A

    def headers(self) -> dict[str, str]:
        """What a request has to bear."""
        headers = {} if self.text is None else {"Authorization": f"Bearer {self.text}"}
        return headers if self.tenant else {**headers, "X-Tenant-Id": A}


@dataclass
class World:
    """The server, its credentials by name, and what there is in it."""

    server: WatchedServer
    client: httpx.Client
    credentials: dict[str, Credential]
    local: Credential
    key_ids: dict[str, str]
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def call(self, credential: Credential, method: str, path: str, **more: Any) -> httpx.Response:
        """A request with that credential."""
        headers = {**credential.headers(), **more.pop("headers", {})}
        return self.client.request(method, path, headers=headers, **more)

    def as_local(self, tenant: str, method: str, path: str, **more: Any) -> httpx.Response:
        """A request that has to succeed, by the credential that may do everything."""
        answer = self.call(self.local, method, path, headers={"X-Tenant-Id": tenant}, **more)
        assert answer.is_success, answer.text
        return answer

    def new_session(self, tenant: str, user: str | None) -> str:
        """A session with two messages, `m-1` and `m-2`."""
        name = f"s-{next(self.numbers):06d}"
        messages = [{"id": f"m-{number}", "role": "user", "content": f"said {number}"} for number in (1, 2)]
        body = {"id": name, "user_id": user, "title": "a title", "messages": messages}
        self.as_local(tenant, "POST", "/v1/sessions", json=body)
        return name

    def new_key(self, tenant: str) -> str:
        """The id of a new key of *tenant*."""
        body = {"tenant_id": tenant, "scopes": ["read"], "name": f"for-{tenant}"}
        return str(self.as_local(tenant, "POST", "/v1/admin/keys", json=body).json()["id"])

    def size(self) -> int:
        """How many events there are."""
        return int(self.as_local(A, "GET", "/v1/ledger/head").json()["size"])


@contextmanager
def world(folder: Path, *, bug: str = "") -> Iterator[World]:
    """Make one in *folder*; *bug* is a name of `seeded_bugs.py`."""
    database = folder / "ledger.db"
    with Store(database) as store:
        credentials = {credential.name: credential for credential in _keys(store)}
    provider = ed_key("first")
    (folder / "jwks.json").write_bytes(jwks(provider))
    for name, tenant, user in (("user 1 of A", A, U1), ("user 2 of A", A, U2), ("user 3 of B", B, U3)):
        claims = {"iss": ISSUER, "aud": AUDIENCE, "exp": int(time.time()) + 3600, "tenant_id": tenant, "sub": user}
        credentials[name] = Credential(name, sign(provider, claims), USER, tenant, user)
    env = {
        "CHATLEDGER_JWKS": str(folder / "jwks.json"),
        "CHATLEDGER_JWT_ISSUER": ISSUER,
        "CHATLEDGER_JWT_AUDIENCE": AUDIENCE,
        "CHATLEDGER_KEYS_MAX": str(KEYS_MAX),
    }
    with (
        WatchedServer(database, log=folder / "log", bug=bug, env=env) as server,
        httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client,
    ):
        noted = noted_address(Location.of(Settings(database_path=str(database))))
        assert noted is not None
        local = Credential("local", noted.credential, SCOPES | OPERATOR)
        credentials[local.name] = local
        key_ids = {name: id_of(each.text) for name, each in credentials.items() if (each.text or "").startswith("clk_")}
        made = World(server, client, credentials, local, key_ids)
        _fill(made)
        yield made


def _keys(store: Store) -> Iterator[Credential]:
    def make(scopes: frozenset[str], tenant: str | None, expires_at: str | None = None) -> str:
        text = new_text()
        name = CANARY[B] if tenant == B else "a key"
        created = KeyCreated(id_of(text), digest_of(text).hex(), tuple(sorted(scopes)), tenant, name, expires_at)
        store.commit_all(_submission(CreateKey(created, KEYS_MAX)))
        return text

    yield Credential("none", None, tenant=A)
    yield Credential("a key that nobody made", new_text(), tenant=A)
    good = make(SCOPES, A)
    yield Credential("a key with a typing error", good[:-1] + ("a" if good[-1] != "a" else "b"), tenant=A)
    yield Credential("no key at all", "secret", tenant=A)
    revoked = make(SCOPES, A)
    store.commit_all(_submission(RevokeKey(id_of(revoked), A)))
    yield Credential("a revoked key", revoked, tenant=A)
    yield Credential("an expired key", make(SCOPES, A, PAST), tenant=A)
    for scope in sorted(SCOPES):
        yield Credential(f"{scope} of A", make(frozenset({scope}), A), frozenset({scope}), A)
    yield Credential("all of A", good, SCOPES, A)
    yield Credential("all of B", make(SCOPES, B), SCOPES, B)
    yield Credential("operator", make(frozenset(), None), OPERATOR)


def _submission(command: CreateKey | RevokeKey) -> Submission:
    return Submission(tenant_id=SYSTEM_TENANT, session_id=KEYS_SESSION, actor="cli", command=command)


def _fill(made: World) -> None:
    """What is never changed: in B and of user 2, all of it with a canary; and enough to have a second page."""
    for tenant, user in ((A, None), (A, U1), (A, U2), (B, U3)):
        for _ in range(3):
            made.new_session(tenant, user)
    for tenant in (A, B):
        made.new_key(tenant)
    for tenant, user, canary in ((A, U2, CANARY[U2]), (B, U3, CANARY[B])):
        foreign = {
            "id": session_of(user),
            "user_id": user,
            "title": canary,
            "traits": {"note": canary},
            "messages": [{"id": message_of(user), "role": "user", "content": canary, "metadata": {"note": canary}}],
        }
        made.as_local(tenant, "POST", "/v1/sessions", json=foreign)
    made.as_local(B, "POST", "/v1/sessions", json={"id": "s-erased", "user_id": CANARY[B]})
    made.as_local(B, "POST", "/v1/sessions/s-erased/erase", json={"reason": CANARY[B]})


def session_of(user: str) -> str:
    """The id of the session that nobody but *user* and its tenant may see."""
    return f"s-of-{user}"


def message_of(user: str) -> str:
    """The id of the message in it."""
    return f"m-of-{user}"
