"""The peers beside ours, in turn and with the same load: stores of chat over HTTP, and event stores in a process."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks import generate
from benchmarks.append import WARM_UP_S, append_requests
from benchmarks.bench import Bench
from benchmarks.conversations import Conversation, first_messages, typical_body, without_ids
from benchmarks.figures import Figure, ratios
from benchmarks.load import Request
from benchmarks.peers.install import HERE, NODE, PYTHON
from benchmarks.process import Process, Server
from benchmarks.writes import import_s
from chatledger.ledger import event_store
from chatledger.maintenance import local_ledger
from chatledger.settings import Settings
from chatledger.storage import ledger_file
from chatledger.storage.connection import Connection
from chatledger.storage.paths import Location
from chatledger.writing.committer import Committer

HTTP = "Beside peers over HTTP"
STORES = "Beside event stores"
OURS = "chatledger"
REPLACED = "the store it replaces"
REPLACED_WAL = f"{REPLACED}, WAL and synchronous FULL"
PLAIN = "FastAPI and SQLAlchemy"
APPEND, SESSION = "append", "session with 50 messages"
APPEND_BARS = {REPLACED: 10, REPLACED_WAL: 3.5, PLAIN: 5}
SESSION_BARS = {REPLACED: 2}
IMPORT_BAR = 0.25
MESSAGES = 50
READ_SESSIONS = 10
EVENTSOURCING, UMADB = "eventsourcing", "umadb"
SINGLE, BATCH, READ = "single", "batch", "read"
STORE_WORDS = {SINGLE: "one by one", BATCH: "batches of 1,000", READ: "reading back"}
BATCH_EVENTS = 1_000


def run(bench: Bench) -> Iterator[Figure]:
    """Those that are not installed are named, with the reason."""
    yield from _over_http(bench)
    yield from _stores(bench)


def _over_http(bench: Bench) -> Iterator[Figure]:
    absent = {
        **dict.fromkeys((REPLACED, REPLACED_WAL), bench.peers.missing(NODE)),
        PLAIN: bench.peers.missing(PYTHON),
    }
    with ExitStack() as stack:
        loads = {OURS: _ours(bench, stack)}
        loads |= {kind: _theirs(bench, stack, kind) for kind, reason in absent.items() if not reason}
        for what, bars in ((APPEND, APPEND_BARS), (SESSION, SESSION_BARS)):
            speeds = _rounds(bench, what, {kind: found[what] for kind, found in loads.items()})
            yield from _compared(what, speeds, absent, bars)


Driven = tuple[str, Request]


def _ours(bench: Bench, stack: ExitStack) -> dict[str, Driven]:
    server = stack.enter_context(Server("chatledger", bench.new_folder("peers-ours")))
    append = append_requests(server, bench.scale.sessions, typical_body(bench.conversations))
    names = [f"read-{number}" for number in range(READ_SESSIONS)]
    for name in names:
        given = {"id": name, "messages": first_messages(bench.conversations, MESSAGES)}
        server.call("POST", "/v1/sessions", msgspec.json.encode(given))
    read = Request(paths=tuple(f"/v1/sessions/{name}?messages={MESSAGES}" for name in names))
    return {APPEND: (server.url, append), SESSION: (server.url, read)}


def _theirs(bench: Bench, stack: ExitStack, kind: str) -> dict[str, Driven]:
    """The same sessions and messages, by the peers' own paths."""
    server = stack.enter_context(_server(bench, kind))
    sizes = {"bench": bench.scale.sessions, "read": READ_SESSIONS}
    for name in [f"{use}-{number}" for use, size in sizes.items() for number in range(size)]:
        server.call("POST", "/sessions", msgspec.json.encode({"id": name}))
    for message in first_messages(bench.conversations, MESSAGES):
        for number in range(READ_SESSIONS):
            server.call("POST", f"/sessions/read-{number}/messages", msgspec.json.encode(message))
    appends = tuple(f"/sessions/bench-{number}/messages" for number in range(bench.scale.sessions))
    reads = tuple(f"/sessions/read-{number}" for number in range(READ_SESSIONS))
    body = typical_body(bench.conversations)
    return {
        APPEND: (server.url, Request(method="POST", paths=appends, body=body)),
        SESSION: (server.url, Request(paths=reads)),
    }


def _server(bench: Bench, kind: str) -> Process:
    folder = bench.new_folder(f"peers-{kind.replace(' ', '-')}")
    database_path = str(folder / "store.db")
    if kind == PLAIN:
        return Process([str(bench.peers.python), str(HERE / "plain.py"), database_path], folder, os.environ)
    journal = "wal" if kind == REPLACED_WAL else ""
    environment = {**os.environ, "DATABASE_PATH": database_path, "JOURNAL": journal, "NODE_ENV": "production"}
    return Process(["node", str(bench.peers.store)], folder, environment)


def _rounds(bench: Bench, what: str, loads: dict[str, Driven]) -> dict[str, list[float]]:
    for url, request in loads.values():
        bench.drive(url, request, seconds=WARM_UP_S)
    speeds: dict[str, list[float]] = {kind: [] for kind in loads}
    for number in range(bench.scale.peer_rounds):
        for kind, (url, request) in loads.items():
            speeds[kind].append(bench.drive(url, request).per_second)
            bench.say(f"peers, round {number + 1}: {what}: {kind}: {speeds[kind][-1]:,.0f} requests/s")
    return speeds


def _compared(
    what: str, speeds: dict[str, list[float]], absent: dict[str, str], bars: dict[str, float]
) -> Iterator[Figure]:
    for kind, values in speeds.items():
        yield Figure(section=HTTP, name=f"{what}: {kind}", unit="requests/s", values=values)
    for kind, reason in absent.items():
        name = f"{what} ÷ {kind}"
        if reason:
            yield Figure(section=HTTP, name=name, unit="ratio", missing=reason)
        else:
            found = ratios(speeds[OURS], speeds[kind])
            yield Figure(section=HTTP, name=name, unit="ratio", values=found, bar=bars.get(kind))


def _stores(bench: Bench) -> Iterator[Figure]:
    reason = bench.peers.missing(PYTHON)
    bodies = bench.folder / "bodies"
    bodies.write_bytes(b"".join(_bodies(bench.conversations)))
    file = bench.folder / "peers-import.jsonl"
    messages = generate.import_file(file, bench.conversations, messages=bench.scale.peer_import_messages)
    imports: list[float] = []
    with ExitStack() as stack:
        asks = {OURS: _our_store(bench, stack)}
        if not reason:
            asks |= {kind: _their_store(bench, stack, kind, bodies) for kind in (EVENTSOURCING, UMADB)}
        speeds: dict[str, dict[str, list[float]]] = {work: {kind: [] for kind in asks} for work in STORE_WORDS}
        for number in range(bench.scale.peer_rounds):
            for work, found in speeds.items():
                for kind, ask in asks.items():
                    found[kind].append(ask(work))
                    bench.say(f"peers, round {number + 1}: {work}: {kind}: {found[kind][-1]:,.0f} events/s")
            folder = bench.new_folder(f"peers-import-{number}")
            imports.append(messages / import_s(folder, file))
            shutil.rmtree(folder)
            bench.say(f"peers, round {number + 1}: import: {imports[-1]:,.0f} messages/s")
    for work, found in speeds.items():
        for kind, values in found.items():
            yield Figure(section=STORES, name=f"{STORE_WORDS[work]}: {kind}", unit="events/s", values=values)
    yield Figure(section=STORES, name=f"import of {messages:,} messages", unit="messages/s", values=imports)
    for kind, bar in ((EVENTSOURCING, None), (UMADB, IMPORT_BAR)):
        name = f"import ÷ {STORE_WORDS[BATCH]}: {kind}"
        if reason:
            yield Figure(section=STORES, name=name, unit="ratio", missing=reason)
        else:
            found_ratios = ratios(imports, speeds[BATCH][kind])
            yield Figure(section=STORES, name=name, unit="ratio", values=found_ratios, bar=bar)


def _bodies(conversations: list[Conversation]) -> Iterator[bytes]:
    for found in conversations:
        for message in found.messages:
            yield msgspec.json.encode(without_ids(message)) + b"\n"


Ask = Callable[[str], float]


def _their_store(bench: Bench, stack: ExitStack, kind: str, bodies: Path) -> Ask:
    folder = bench.new_folder(f"peers-{kind}")
    arguments = [kind, str(folder), str(bodies), str(bench.scale.store_s)]
    process = subprocess.Popen(
        [str(bench.peers.python), str(HERE / "event_stores.py"), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    asking, answering = process.stdin, process.stdout
    assert asking is not None
    assert answering is not None
    stack.callback(process.wait)
    stack.enter_context(closing(answering))
    stack.callback(asking.close)

    def ask(work: str) -> float:
        print(work, file=asking, flush=True)
        return float(answering.readline())

    return ask


def _our_store(bench: Bench, stack: ExitStack) -> Ask:
    """Ours in this process: without HTTP, with the tree and the views."""
    path = bench.new_folder("peers-store") / "ledger.db"
    settings = Settings(database_path=str(path))
    committer = stack.enter_context(local_ledger.writing(settings))
    coming = generate.submissions(bench.conversations, prefix="peers")
    connection = stack.enter_context(closing(ledger_file.open_ledger_reader(Location.of(settings), settings)))

    def ask(work: str) -> float:
        if work == READ:
            return _read_speed(connection)
        return _commit_speed(bench, committer, coming, BATCH_EVENTS if work == BATCH else 1)

    return ask


def _commit_speed(bench: Bench, committer: Committer, coming: Iterator[generate.Submission], size: int) -> float:
    events, started_s = 0, perf_counter()
    while perf_counter() - started_s < bench.scale.store_s:
        generate.check(committer.commit(list(islice(coming, size))))
        events += size
    return events / (perf_counter() - started_s)


def _read_speed(connection: Connection) -> float:
    """All events that are there, decoded."""
    position, started_s = 0, perf_counter()
    while found := event_store.read_after(connection, position, BATCH_EVENTS):
        position = found[-1].position
    return position / (perf_counter() - started_s)


def described(bench: Bench) -> list[tuple[str, str]]:
    """Each peer, with its versions or the reason why it is not there."""
    versions = bench.peers.versions()

    def state(kind: str, *packages: str) -> str:
        reason = bench.peers.missing(kind)
        return reason or ", ".join(f"{name} {versions.get(name, '?')}" for name in packages)

    return [
        (REPLACED, state(NODE, "fastify", "drizzle-orm", "better-sqlite3", "node")),
        (PLAIN, state(PYTHON, "fastapi", "sqlalchemy", "uvicorn")),
        (EVENTSOURCING, state(PYTHON, EVENTSOURCING)),
        (UMADB, state(PYTHON, UMADB)),
    ]
