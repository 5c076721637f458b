"""Every kind of credential, of two tenants and their users, on a running server that takes keys and user tokens."""

import json
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from support.altered import TESTS, WatchedServer
from support.command import succeed
from support.identity_provider import ed_key, jwks, sign
from support.server import Server
from support.wire import Request, Wire

ISSUER, AUDIENCE = "https://login.example/", "chatledger"
SCOPES = ("read", "write", "audit", "erase", "admin")
ALL = frozenset(SCOPES)
USER = frozenset({"read", "write"})
OPERATOR = frozenset({"operator", "audit", "admin"})
LOCAL = ALL | OPERATOR
TENANT_A, TENANT_B = "t-a", "t-b-CANARYbt"
U1, U2 = "u-1-CANARYu1", "u-2-CANARYu2"
EXPIRES_S, DEADLINE_S = 1, 30


@dataclass(frozen=True)
class Credential:
    """What a request shows, and what it is good for.

    Without `tenant` the request names it; without scopes it is bad.
    """

    name: str
    header: str | None
    scopes: frozenset[str] = frozenset()
    tenant: str | None = None
    user: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Those of a request."""
        return {} if self.header is None else {"authorization": self.header}


@contextmanager
def guarded(folder: Path, leak: str = "") -> Iterator[tuple[Server, dict[str, Credential]]]:
    """A server in *folder*, with the *leak* of `leaks.py` if one is named, and all credentials, by their names."""
    database, provider = folder / "ledger.db", ed_key("ed-1")
    (folder / "jwks.json").write_bytes(jwks(provider))
    operator = succeed("key", "create", "--operator", "--database", database, cwd=folder).splitlines()[-1]
    settings = {
        "CHATLEDGER_JWKS": str(folder / "jwks.json"),
        "CHATLEDGER_JWT_ISSUER": ISSUER,
        "CHATLEDGER_JWT_AUDIENCE": AUDIENCE,
        **({"LEAK": leak, "PYTHONPATH": str(TESTS)} if leak else {}),
    }
    starting = WatchedServer(database, log=folder / "server.log", env=settings)
    if leak:
        starting.command = [sys.executable, "-m", "support.leaks", "serve", "--database", str(database), "--port"]
    with starting as server:
        local = json.loads((folder / "ledger.db.lock").read_bytes())["credential"]
        of_a = succeed(
            *("key", "create", "--tenant", TENANT_A, "--scopes", ",".join(SCOPES), "--database", database), cwd=folder
        ).splitlines()[-1]
        with Wire(server.port) as wire:
            maker = _Maker(wire, operator)
            good = [
                *(_key(f"A:{scope}", maker.key(TENANT_A, scope), TENANT_A, scope) for scope in SCOPES),
                _key("A:all", of_a, TENANT_A, *SCOPES),
                _key("B:all", maker.key(TENANT_B, *SCOPES), TENANT_B, *SCOPES),
                *(
                    Credential(name, f"Bearer {sign(provider, claims(tenant, user))}", USER, tenant, user)
                    for name, tenant, user in (
                        ("A:u1", TENANT_A, U1),
                        ("A:u2", TENANT_A, U2),
                        ("B:u1", TENANT_B, U1),  # of the same name in another tenant
                    )
                ),
                Credential("operator", f"Bearer {operator}", OPERATOR),
                Credential("local", f"Bearer {local}", LOCAL),
            ]
            bad = {
                "none": None,
                "unknown key": f"Bearer {_unknown(of_a)}",
                "typing error": f"Bearer {of_a[:30]}{'a' if of_a[30] != 'a' else 'b'}{of_a[31:]}",
                "revoked key": f"Bearer {maker.revoked_key()}",
                "expired key": f"Bearer {maker.expired_key()}",
                "expired token": f"Bearer {sign(provider, claims(TENANT_A, U1, exp=1))}",
                "token of another provider": f"Bearer {sign(ed_key('ed-1'), claims(TENANT_A, U1))}",
                "another scheme": f"Basic {of_a}",
            }
            found = [*(Credential(name, header) for name, header in bad.items()), *good]
        yield server, {credential.name: credential for credential in found}


def claims(tenant: str, user: str, *, exp: int | None = None) -> dict[str, object]:
    """Of a token of *user*, good for an hour."""
    end = int(time.time()) + 3600 if exp is None else exp
    return {"iss": ISSUER, "aud": AUDIENCE, "tenant_id": tenant, "sub": user, "exp": end}


def _key(name: str, text: str, tenant: str, *scopes: str) -> Credential:
    return Credential(name, f"Bearer {text}", frozenset(scopes), tenant)


def _unknown(known: str) -> str:
    """A key like *known*, with a good checksum (docs/security.md), that was never made."""
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    head = known[:20] + ("A" if known[20] != "A" else "B") + known[21:-6]
    number, checksum = zlib.crc32(head.encode()), ""
    for _ in range(6):
        number, digit = divmod(number, 62)
        checksum = digits[digit] + checksum
    return head + checksum


class _Maker:
    """Makes keys over HTTP, as an operator."""

    def __init__(self, wire: Wire, operator: str) -> None:
        self._wire = wire
        self._headers = {"authorization": f"Bearer {operator}"}

    def key(self, tenant: str, *scopes: str, expires_at: str | None = None) -> str:
        """A new key's text."""
        made = self._make(tenant, scopes, expires_at)
        return str(made["key"])

    def revoked_key(self) -> str:
        """One that was good before."""
        made = self._make(TENANT_A, SCOPES, None)
        assert self._is_taken(made["key"])
        answer = self._wire.ask(Request.of("DELETE", f"/v1/admin/keys/{made['id']}", **self._headers))
        assert answer.status == 204, answer
        return str(made["key"])

    def expired_key(self) -> str:
        """One whose time is over: seen by asking, since nothing but time makes it so."""
        end = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 1 + EXPIRES_S))
        text = self.key(TENANT_A, *SCOPES, expires_at=end)
        begun = time.monotonic()
        while self._is_taken(text):
            assert time.monotonic() < begun + DEADLINE_S
        return text

    def _is_taken(self, text: str) -> bool:
        answer = self._wire.ask(Request.of("GET", "/v1/sessions", authorization=f"Bearer {text}"))
        assert answer.status in (200, 401), answer
        return answer.status == 200

    def _make(self, tenant: str, scopes: tuple[str, ...], expires_at: str | None) -> dict[str, str]:
        body = {"tenant_id": tenant, "scopes": scopes, "name": f"key of {tenant}", "expires_at": expires_at}
        answer = self._wire.ask(Request.of("POST", "/v1/admin/keys", body, **self._headers))
        assert answer.status == 201, answer
        found: dict[str, str] = answer.document
        return found
