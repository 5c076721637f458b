"""Every operation of the API, and the commands that work beside a server, at the largest size that the limits allow."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import msgspec

from chatledger.application.api_keys import NewKey, key_created
from chatledger.domain.api_keys import new_text
from chatledger.domain.commands import CreateKey
from chatledger.domain.events import KEYS_SESSION, SYSTEM_TENANT
from support.command import succeed
from support.store import Store, append, create, message, submit

BATCH = 1_000
TRIES_MAX = 9
ALL = "all events"
MIB = 1024 * 1024
POLL_S = 0.01
TIMEOUT_S = 600.0
LARGE_COMMAND_S = 1_800.0
"""A command goes through millions of events."""


class Sizes(NamedTuple):
    """How large the largest are; the defaults are the limits of the service (docs/operations/settings.md)."""

    messages: int = 99_000
    """Of the longest session that can be forked: at most 100,000 events."""
    wide_messages: int = 60
    """Of almost 1 MiB each: a fork has at most 64 MiB, and a page 16 MiB."""
    proof_events: int = 10_000
    proof_bytes: int = 60 * MIB
    sessions: int = 200
    """With traits of almost 64 KiB, in one page."""
    keys: int = 900


LIMITS = Sizes()
SHORT = Sizes(messages=40_000, wide_messages=20, proof_events=5_000, proof_bytes=20 * MIB, keys=300)
_SHORT_TEXT = "How does the ledger know that nobody has changed an event since it was written?"


class Credentials(NamedTuple):
    """The keys that callers show."""

    tenant: str
    operator: str


def seed(database: Path, sizes: Sizes) -> Credentials:
    """Put the sessions into the ledger that the operations are tried on."""
    with Store(database) as store:
        store.commit_all(create("long"))
        for first in range(0, sizes.messages, BATCH):
            count = min(BATCH, sizes.messages - first)
            store.commit_all(append("long", *(message(f"m{first + number}", _SHORT_TEXT) for number in range(count))))
        for number in range(1, TRIES_MAX + 1):  # as long as what is appended at once: the two are compared
            batch = [message(f"m{each}", _SHORT_TEXT) for each in range(BATCH)]
            store.commit_all(create(f"t{number}-batch"), append(f"t{number}-batch", *batch))
        store.commit_all(create("wide"))
        for number in range(sizes.wide_messages):
            store.commit_all(append("wide", message(f"m{number}", "w" * (MIB - 1000))))
        store.commit_all(create("proven"))
        each = "p" * (sizes.proof_bytes // sizes.proof_events - 100)
        for first in range(1, sizes.proof_events, BATCH):
            numbers = range(first, min(first + BATCH, sizes.proof_events))
            store.commit_all(append("proven", *(message(f"m{number}", each) for number in numbers)))
        traits = msgspec.Raw(msgspec.json.encode({"notes": "t" * 64_000}))
        for number in range(sizes.sessions):
            store.commit_all(create(f"traits-{number}", traits=traits, user_id="collector"))
        return Credentials(_keys(store, sizes.keys, "default"), _keys(store, 1, None))


def _keys(store: Store, count: int, tenant_id: str | None) -> str:
    """Make so many keys of one owner; the last one's text."""
    text = ""
    scopes = () if tenant_id is None else ("read", "write", "audit", "erase", "admin")
    for _ in range(count):
        text = new_text()
        created = key_created(text, NewKey(tenant_id=tenant_id, operator=tenant_id is None, scopes=scopes))
        store.commit_all(submit(KEYS_SESSION, CreateKey(created, 10_000), tenant=SYSTEM_TENANT))
    return text


class Operation(NamedTuple):
    """Something that one caller asks for."""

    name: str
    size: str
    covers: str
    """Its operation id in the API document, or its command."""
    run: Callable[[], object]

    @property
    def title(self) -> str:
        """Name and size."""
        return f"{self.name}, {self.size}" if self.size else self.name

    @property
    def reads_all(self) -> bool:
        """Whether it goes through the whole ledger, as a rebuild and the commands do."""
        return self.size == ALL


class Scene:
    """A server with what `seed` has made, and its callers."""

    def __init__(self, port: int, database: Path, sizes: Sizes, credentials: Credentials, *, first: int = 1) -> None:
        self._sizes = sizes
        self._database = database
        self._tenant, self._operator = (
            httpx.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {key}"},
                timeout=TIMEOUT_S,
                trust_env=False,
            )
            for key in credentials
        )
        self._tries = first - 1

    def close(self) -> None:
        """Close the connections."""
        self._tenant.close()
        self._operator.close()

    def operations(self) -> Iterator[Operation]:
        """All of them, once; what they make has other names each time."""
        self._tries += 1
        sizes, tenant, operator = self._sizes, self._get, self._get_as_operator
        yield from self._writes(f"t{self._tries}")
        yield Operation("read a session as of its end", f"{sizes.messages:,} messages", "getSession", self._as_of)
        yield Operation("read a session", "16 MiB", "getSession", tenant("/v1/sessions/wide?messages=1000"))
        yield Operation("list messages", "16 MiB", "listMessages", tenant("/v1/sessions/wide/messages?limit=200"))
        yield Operation("read a message", "1 MiB", "getMessage", tenant("/v1/sessions/wide/messages/m0"))
        yield Operation("list sessions", "200 of 64 KiB", "listSessions", tenant("/v1/sessions?limit=200"))
        yield Operation(
            "list a user's sessions", "200", "listSessions", tenant("/v1/sessions?user_id=collector&limit=200")
        )
        yield Operation(
            "list a session's events", "16 MiB", "listSessionEvents", tenant("/v1/sessions/wide/events?limit=200")
        )
        yield Operation("list events", "200", "listEvents", tenant("/v1/events?limit=200"))
        yield Operation(
            "list events of a type", "200", "listEvents", tenant("/v1/events?limit=200&type=session.created")
        )
        size = f"{sizes.proof_events:,} events, {sizes.proof_bytes // MIB} MiB"
        yield Operation("get a proof bundle", size, "getSessionProof", tenant("/v1/sessions/proven/proof"))
        yield Operation("get a head", "", "getLedgerHead", tenant("/v1/ledger/head"))
        yield Operation("get a checkpoint", "", "getCheckpoint", operator("/tlog/checkpoint"))
        yield Operation("get a tile", "256 hashes", "getTile", operator("/tlog/tile/0/000"))
        yield Operation("list projections", "", "showProjections", operator("/v1/admin/projections"))
        yield Operation("rebuild and swap", ALL, "rebuildProjections", self._rebuild)
        yield Operation("begin and cancel a rebuild", "", "cancelRebuild", self._cancel_rebuild)
        yield Operation("list keys", f"200 of {sizes.keys}", "listKeys", tenant("/v1/admin/keys?limit=200"))
        yield Operation("create and revoke a key", f"of {sizes.keys}", "createKey revokeKey", self._key)
        yield Operation("health, metrics", "", "live ready metrics", self._look)
        for command, *options in (
            ("backup", f"backup-{self._tries}.db"),
            ("verify",),
            ("export",),
            ("export", "--events"),
        ):
            name = " ".join(["chatledger", command, *(option for option in options if option.startswith("-"))])
            yield Operation(name, ALL, command, self._command(command, *options))

    def _writes(self, name: str) -> Iterator[Operation]:
        sizes, text = self._sizes, _SHORT_TEXT
        many = msgspec.json.encode({"messages": [{"role": "user", "content": text}] * BATCH})
        large = msgspec.json.encode({"messages": [{"role": "user", "content": "x" * 1_040_000}] * 8})
        made = msgspec.json.encode(
            {"id": f"{name}-made", "messages": [{"role": "user", "content": "x" * 8_000}] * BATCH}
        )
        post, delete = self._post, self._delete
        yield Operation("create a session", "1,000 messages, 8 MiB", "createSession", post("/v1/sessions", made))
        messages = f"/v1/sessions/{name}-made/messages"
        yield Operation("append messages", "1,000", "appendMessages", post(messages, many))
        erase = msgspec.json.encode({"reason": "measured"})
        yield Operation(
            "erase a session", "1,000 messages", "eraseSession", post(f"/v1/sessions/{name}-batch/erase", erase)
        )
        yield Operation("append messages", "8 of 1 MiB", "appendMessages", post(messages, large))
        patch = msgspec.json.encode({"traits": {"notes": name + "t" * 64_000}})
        yield Operation("update a session", "64 KiB", "updateSession", self._patch("/v1/sessions/long", patch))
        size = f"{sizes.messages:,} messages"
        fork = msgspec.json.encode({"id": f"{name}-fork"})
        wide = msgspec.json.encode({"id": f"{name}-wide"})
        yield Operation("fork a session", size, "forkSession", post("/v1/sessions/long/fork", fork))
        yield Operation(
            "fork a session", f"{sizes.wide_messages} MiB", "forkSession", post("/v1/sessions/wide/fork", wide)
        )
        last = f"/v1/sessions/{name}-fork/messages/m{sizes.messages - 1}"
        yield Operation("remove the newest message", f"of {sizes.messages:,}", "removeMessage", delete(last))
        yield Operation("delete a session", size, "deleteSession", delete(f"/v1/sessions/{name}-fork"))
        yield Operation("erase a session", size, "eraseSession", post(f"/v1/sessions/{name}-fork/erase", erase))
        yield Operation(
            "erase a session",
            f"{sizes.wide_messages} MiB",
            "eraseSession",
            post(f"/v1/sessions/{name}-wide/erase", erase),
        )
        yield Operation("get an erasure", size, "getErasure", self._get(f"/v1/sessions/{name}-fork/erasure"))

    def _get(self, path: str) -> Callable[[], object]:
        return lambda: _good(self._tenant.get(path))

    def _get_as_operator(self, path: str) -> Callable[[], object]:
        return lambda: _good(self._operator.get(path))

    def _post(self, path: str, body: bytes) -> Callable[[], object]:
        return lambda: _good(self._tenant.post(path, content=body, headers={"Content-Type": "application/json"}))

    def _patch(self, path: str, body: bytes) -> Callable[[], object]:
        return lambda: _good(
            self._tenant.patch(path, content=body, headers={"Content-Type": "application/merge-patch+json"})
        )

    def _delete(self, path: str) -> Callable[[], object]:
        return lambda: _good(self._tenant.delete(path))

    def _as_of(self) -> None:
        version = _good(self._tenant.get("/v1/sessions/long")).json()["version"]
        _good(self._tenant.get(f"/v1/sessions/long?messages=1000&as_of_version={version - 1}"))

    def _rebuild(self) -> None:
        _good(self._operator.post("/v1/admin/projections/rebuild"))
        while _good(self._operator.get("/v1/admin/projections")).json()["rebuild"] is not None:
            time.sleep(POLL_S)

    def _cancel_rebuild(self) -> None:
        _good(self._operator.post("/v1/admin/projections/rebuild"))
        _good(self._operator.delete("/v1/admin/projections/rebuild"))

    def _key(self) -> None:
        made = _good(self._tenant.post("/v1/admin/keys", json={"scopes": ["read"]})).json()
        _good(self._tenant.delete(f"/v1/admin/keys/{made['id']}"))

    def _look(self) -> None:
        for path in ("/health/live", "/health/ready", "/metrics"):
            _good(self._operator.get(path))

    def _command(self, *words: str) -> Callable[[], object]:
        arguments = (*words, "--database", self._database.name, "--output", "/dev/null")
        given = arguments if words[0] == "export" else arguments[:-2]
        return lambda: succeed(*given, cwd=self._database.parent, timeout_s=LARGE_COMMAND_S)


def _good(answer: httpx.Response) -> httpx.Response:
    assert answer.is_success, (answer.request.method, answer.request.url.path, answer.status_code, answer.text[:500])
    return answer
